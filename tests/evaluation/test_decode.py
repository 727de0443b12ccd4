"""Decoding: against a plain loop, against the official implementation, and inside ONNX."""

import json
import math
import pickle

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_decoding
from quantcore.engines.onnxruntime import OnnxRuntimeEngine
from quantcore.errors import ModelError
from quantcore.evaluation.decode_graph import append_decode
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.grid import GridDecoding
from quantcore.evaluation.decoding.rows import sigmoid_
from quantcore.evaluation.nms import nms
from quantcore.ir.decoding import Limits

ANCHORS = AnchorDecoding((4, 8), (((5.0, 9.0), (16.0, 7.0)), ((20.0, 30.0), (40.0, 11.0))))
GRID = GridDecoding((4, 8))
NONE = DecodedBoxes()
SIZE = (16, 24)
CLASSES = 3
YOLOV7_TINY = AnchorDecoding(
    (8, 16, 32),
    (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    ),
)


def _outputs(decoding, batch=2, seed=0, spread=3.0):
    rng = np.random.default_rng(seed)
    if decoding is ANCHORS:
        shapes = [
            (batch, len(a) * (5 + CLASSES), SIZE[0] // s, SIZE[1] // s)
            for s, a in zip(decoding.strides, decoding.anchors, strict=True)
        ]
    else:
        count = sum(SIZE[0] // s * (SIZE[1] // s) for s in (4, 8))
        shapes = [(batch, count, 5 + CLASSES)]
    heads = [rng.normal(0, spread, shape).astype(np.float32) for shape in shapes]
    if decoding is not ANCHORS:
        sigmoid_(heads[0][..., 4:])
    return heads


def _plain(heads, decoding):
    """One prediction at a time in float64, as the formulas are written."""
    images = []
    for image in range(len(heads[0])):
        rows = []
        for level, stride in enumerate(decoding.strides):
            height, width = SIZE[0] // stride, SIZE[1] // stride
            for a in range(len(decoding.anchors[level]) if decoding is ANCHORS else 1):
                for y in range(height):
                    for x in range(width):
                        if decoding is GRID:
                            raw = heads[0][image, len(rows)].astype(float)
                            centre = [(raw[0] + x) * stride, (raw[1] + y) * stride]
                            extent = [math.exp(raw[2]) * stride, math.exp(raw[3]) * stride]
                            rows.append([*centre, *extent, *raw[4:]])
                            continue
                        k = 5 + CLASSES
                        raw = heads[level][image, a * k : (a + 1) * k, y, x].astype(float)
                        s = [1 / (1 + math.exp(-v)) for v in raw]
                        anchor = decoding.anchors[level][a]
                        centre = [(2 * s[0] - 0.5 + x) * stride, (2 * s[1] - 0.5 + y) * stride]
                        extent = [(2 * s[2]) ** 2 * anchor[0], (2 * s[3]) ** 2 * anchor[1]]
                        rows.append([*centre, *extent, *s[4:]])
        images.append(rows)
    return np.array(images)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 3.0, 20.0]))
@pytest.mark.parametrize("decoding", [ANCHORS, GRID], ids=lambda d: d.kind)
def test_agrees_with_the_formulas(decoding, seed, spread):
    heads = _outputs(decoding, seed=seed, spread=spread)
    before = [h.copy() for h in heads]
    decoded = decoding.decode(heads, SIZE)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, _plain(heads, decoding), rtol=1e-5, atol=1e-5)
    for head, copy in zip(heads, before, strict=True):
        np.testing.assert_array_equal(head, copy)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.0, 0.001, 0.3, 0.9, 1.0]))
@pytest.mark.parametrize("decoding", [ANCHORS, GRID, NONE], ids=lambda d: d.kind)
def test_candidates_are_rows_of_the_whole(decoding, seed, threshold):
    heads = _outputs(decoding, seed=seed)
    decoded = decoding.decode(heads, SIZE)
    found = decoding.candidates(heads, SIZE, threshold)
    for rows, candidates in zip(decoded, found, strict=True):
        np.testing.assert_array_equal(candidates, rows[rows[:, 4] >= threshold])


@pytest.mark.parametrize("decoding", [ANCHORS, GRID, NONE], ids=lambda d: d.kind)
def test_detections_are_the_best_of_all_predictions(decoding):
    heads, limits = _outputs(decoding), Limits(0.05, 0.5, 7)
    before = [h.copy() for h in heads]
    found = decoding.detect(heads, SIZE, limits)
    assert [len(each) for each in found] == [7, 7]
    for one, other in zip(found, nms(decoding.decode(heads, SIZE), limits), strict=True):
        np.testing.assert_array_equal(one, other)
    for head, copy in zip(heads, before, strict=True):
        np.testing.assert_array_equal(head, copy)


@pytest.mark.parametrize("decoding", [ANCHORS, GRID, NONE], ids=lambda d: d.kind)
def test_a_decoding_is_found_by_its_kind_and_survives_the_way_to_a_process(decoding):
    kind = load_decoding(decoding.kind)
    assert type(decoding) is kind
    assert kind.from_dict(json.loads(json.dumps(decoding.to_dict()))) == decoding
    assert pickle.loads(pickle.dumps(decoding)) == decoding
    shapes = [head.shape for head in _outputs(decoding)]
    assert len(shapes) == decoding.heads
    assert decoding.classes(shapes, SIZE) == CLASSES


def test_anchors_and_strides_must_fit():
    for strides, anchors, why in (
        ((8,), (), "0 sets of anchors for 1 strides"),
        ((8, 0), (((1, 1),),) * 2, "strides must be 1 or more"),
        ((), (), "strides must be 1 or more"),
        ((8,), ((),), "every head needs anchors"),
    ):
        with pytest.raises(ModelError, match=why):
            AnchorDecoding(strides, anchors)
    with pytest.raises(ModelError, match="strides must be 1 or more"):
        GridDecoding((8, -8))


def test_sigmoid_is_stable():
    values = np.array([-np.inf, -1e4, -88, 0, 88, 1e4, np.inf, np.nan], np.float32)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        sigmoid_(values)
    assert values[[0, 1, 3, 5, 6]].tolist() == [0, 0, 0.5, 1, 1]
    assert 0 < values[2] < 1e-37
    assert np.isnan(values[7])


@pytest.mark.parametrize(
    ("decoding", "shapes", "message"),
    [
        (ANCHORS, [(1, 16, 4, 6)], "needs 2 heads"),
        (ANCHORS, [], "gave nothing"),
        (ANCHORS, [(1, 16, 4, 6), (1, 16, 4, 6)], r"a head B x 2\*\(5\+classes\) x 2 x 3"),
        (ANCHORS, [(1, 17, 4, 6), (1, 17, 2, 3)], "the network gave 1 x 17 x 4 x 6"),
        (ANCHORS, [(1, 10, 4, 6), (1, 10, 2, 3)], "check the model's options"),
        (ANCHORS, [(1, 16, 4, 6), (1, 18, 2, 3)], "heads with the same number of classes"),
        (GRID, [(1, 29, 8)], r"needs one output B x 30 x \(5\+classes\)"),
        (GRID, [(1, 30, 5)], "needs one output"),
        (NONE, [(1, 8, 30, 1)], r"needs one output B x N x"),
        (NONE, [(1, 30, 8), (1, 30, 8)], "needs one output"),
    ],
)
def test_refuses_other_shapes(decoding, shapes, message):
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(ModelError, match=message):
        decoding.decode(outputs, SIZE)
    with pytest.raises(ModelError, match=message):
        decoding.detect(outputs, SIZE, Limits())
    with pytest.raises(ModelError, match=message):
        decoding.classes(shapes, SIZE)


def test_nan_is_no_candidate():
    heads = _outputs(ANCHORS)
    heads[0][:] = np.nan
    heads[1][:] = np.nan
    assert [len(c) for c in ANCHORS.candidates(heads, SIZE, 0.0)] == [0, 0]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["yolov7-tiny", "yolov7-w025"])
def test_order_and_anchors_of_the_official_implementation(shared, name):
    """Solving the official boxes for the logits works only with the right cell and anchor."""
    decoded = np.load(shared / "reference" / f"{name}.npz")["decoded"]
    decoding = YOLOV7_TINY
    if name == "yolov7-w025":
        anchors = (((12, 16), (19, 36), (40, 28)), ((36, 75), (76, 55), (72, 146)))
        decoding = AnchorDecoding((8, 16, 32), (*anchors, ((142, 110), (192, 243), (459, 401))))
    table = decoding.predictions((320, 320))
    s = decoded.astype(np.float64)
    s[..., :2] = (s[..., :2] - table.origin) / table.gain
    s[..., 2:4] = np.sqrt(s[..., 2:4] / table.base) / 2
    assert ((s > 0) & (s < 1)).all()
    logits = np.log(s / (1 - s)).astype(np.float32)
    heads = []
    for first, last, stride in zip(table.levels[:-1], table.levels[1:], (8, 16, 32), strict=True):
        side = 320 // stride
        head = logits[:, first:last].reshape(1, 3, side, side, 85)
        heads.append(head.transpose(0, 1, 4, 2, 3).reshape(1, 255, side, side))
    np.testing.assert_allclose(decoding.decode(heads, (320, 320)), decoded, rtol=1e-4, atol=1e-4)


def _graph(decoding, batch="batch", opset=13):
    """A graph whose outputs are its inputs, negated."""
    arrays = _outputs(decoding)
    names = [f"head{i}" for i in range(len(arrays))]
    values = [
        [
            helper.make_tensor_value_info(f"{n}{end}", TensorProto.FLOAT, [batch, *a.shape[1:]])
            for n, a in zip(names, arrays, strict=True)
        ]
        for end in ("_in", "")
    ]
    nodes = [helper.make_node("Neg", [f"{n}_in"], [n], name=n) for n in names]
    graph = helper.make_graph(nodes, "g", *values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _run(proto, feeds):
    import onnxruntime as ort

    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["detections"]
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("decoding", [ANCHORS, GRID, NONE], ids=lambda d: d.kind)
def test_graph_equals_numpy(decoding, opset):
    proto = _graph(decoding, opset=opset)
    before = proto.SerializeToString()
    drawn = append_decode(proto, decoding, SIZE)
    assert proto.SerializeToString() == before
    for batch in (1, 4):
        heads = _outputs(decoding, batch=batch, seed=batch)
        feeds = {f"head{i}_in": -h for i, h in enumerate(heads)}
        wanted = decoding.decode(heads, SIZE)
        np.testing.assert_allclose(_run(drawn, feeds), wanted, rtol=1e-4, atol=1e-5)


def test_graph_keeps_a_fixed_batch():
    drawn = append_decode(_graph(ANCHORS, batch=2), ANCHORS, SIZE)
    assert drawn.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 2
    names = [node.name for node in drawn.graph.node]
    assert len(set(names)) == len(names)
    with OnnxRuntimeEngine("onnxruntime").build(_single(drawn), EngineOptions()) as engine:
        assert engine.output_names == ("detections",)


def _single(proto):
    """The engine contract wants one input."""
    del proto.graph.input[1:]
    proto.graph.node[1].input[0] = "head1_const"
    value = np.zeros((2, 16, 2, 3), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(value, "head1_const"))
    return proto


def test_graph_is_drawn_once():
    drawn = append_decode(_graph(ANCHORS), ANCHORS, SIZE)
    assert append_decode(drawn, NONE, SIZE) == drawn
    with pytest.raises(ModelError, match="needs 2 outputs, the graph has detections"):
        append_decode(drawn, ANCHORS, SIZE)
    with pytest.raises(ModelError, match="draw them once"):
        append_decode(append_decode(_graph(GRID), GRID, SIZE), GRID, SIZE)


def test_graph_refuses_old_opsets():
    with pytest.raises(ModelError, match="needs opset 13 or later, the graph has 11"):
        append_decode(_graph(GRID, opset=11), GRID, SIZE)
