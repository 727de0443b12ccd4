"""Decodings without anchors: against a plain loop, inside ONNX, and what each leaves out."""

import json
import math
import pickle

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from quantcore.contracts.registry import load_decoding
from quantcore.data.letterbox import Placement
from quantcore.errors import ModelError
from quantcore.evaluation.decode_graph import append_decode
from quantcore.evaluation.decoding.anchor_free import AnchorFreeDecoding
from quantcore.evaluation.decoding.end_to_end import EndToEndDecoding
from quantcore.evaluation.decoding.gfl import GflDecoding
from quantcore.evaluation.finding import find_predictions
from quantcore.evaluation.nms import nms
from quantcore.ir.decoding import Limits
from quantcore.ir.model import FloatModel, Preprocessing

SIZE = (20, 24)  # the coarser stride does not divide it
STRIDES = (4, 8)
CLASSES = 3

FREE = [
    AnchorFreeDecoding(layout, boxes, sigmoid)
    for layout in ("rows", "columns")
    for boxes in ("center", "corners")
    for sigmoid in (False, True)
]
GFL = [
    GflDecoding(STRIDES),
    GflDecoding(STRIDES, 4, "pairs", "maps", sigmoid=True),
    GflDecoding(STRIDES, 8, "pairs", "columns", shift=0.0),
    GflDecoding(STRIDES, 16, "boxes_first", "maps", sigmoid=True),
    GflDecoding(STRIDES, 1, "boxes_first", "maps", sigmoid=True),
    GflDecoding(STRIDES, 8, "scores_first", "rows", merged=True, shift=0.0),
    GflDecoding(STRIDES, 8, "scores_first", "columns", merged=True),
    GflDecoding(STRIDES, 8, "pairs", "rows", merged=True),
]
ALL = [*FREE, *GFL, EndToEndDecoding()]


def name(decoding):
    return "-".join(str(v) for v in decoding.to_dict().values())


def grids(decoding):
    cells = [(-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in STRIDES]
    return [(sum(h * w for h, w in cells), 1)] if decoding.merged else cells


def shape(decoding, height, width, channels, batch):
    if decoding.form == "maps":
        return (batch, channels, height, width)
    cells = height * width
    return (batch, *((cells, channels) if decoding.form == "rows" else (channels, cells)))


def outputs(decoding, batch=2, seed=0, spread=3.0):
    rng = np.random.default_rng(seed)
    if isinstance(decoding, EndToEndDecoding):
        corners = np.sort(rng.uniform(0, 24, (batch, 30, 2, 2)), axis=2).reshape(batch, 30, 4)
        rest = np.stack([rng.random((batch, 30)), rng.integers(0, 3, (batch, 30))], -1)
        return [np.concatenate([corners, rest], -1).astype(np.float32)]
    if isinstance(decoding, AnchorFreeDecoding):
        rows = np.concatenate(
            [rng.uniform(0, 24, (batch, 30, 4)), rng.random((batch, 30, CLASSES))], -1
        )
        if decoding.boxes == "corners":
            rows[..., :4] = np.sort(rows[..., :4].reshape(batch, 30, 2, 2), axis=2).reshape(
                batch, 30, 4
            )
        if decoding.sigmoid:
            rows[..., 4:] = spread * rng.normal(size=rows[..., 4:].shape)
        rows = rows.astype(np.float32)
        return [rows if decoding.layout == "rows" else np.ascontiguousarray(rows.swapaxes(1, 2))]
    boxes = 4 * decoding.bins
    widths = [CLASSES, boxes] if decoding.order == "pairs" else [CLASSES + boxes]
    found = [
        rng.normal(0, spread, shape(decoding, h, w, k, batch)).astype(np.float32)
        for k in widths
        for h, w in grids(decoding)
    ]
    if not decoding.sigmoid:
        for array in found[: decoding.heads if len(widths) == 1 else decoding.heads // 2]:
            channels = array if decoding.form != "rows" else array.swapaxes(1, 2)
            at = slice(boxes, None) if decoding.order == "boxes_first" else slice(0, CLASSES)
            channels[:, at] = 1 / (1 + np.exp(-channels[:, at]))
    return found


def score(decoding, value):
    return 1 / (1 + math.exp(-value)) if decoding.sigmoid else value


def plain_free(heads, decoding):
    rows = heads[0].swapaxes(1, 2) if decoding.layout == "columns" else heads[0]
    images = []
    for image in rows.astype(float):
        found = []
        for a, b, c, d, *scores in image.tolist():
            box = [a, b, c, d]
            if decoding.boxes == "corners":
                box = [(a + c) / 2, (b + d) / 2, c - a, d - b]
            found.append([*box, *(score(decoding, s) for s in scores)])
        images.append(found)
    return np.array(images)


def value_at(decoding, head, cell, width, channel):
    """The number of one cell and channel, whatever the form."""
    if decoding.form == "maps":
        return float(head[channel, cell // width, cell % width])
    return float(head[cell, channel] if decoding.form == "rows" else head[channel, cell])


def plain_gfl(heads, decoding):
    """One prediction at a time in float64, as the formulas are written."""
    images, boxes = [], 4 * decoding.bins
    first = {"boxes_first": (boxes, 0), "scores_first": (0, CLASSES), "pairs": (0, 0)}
    scores_at, boxes_at = first[decoding.order]
    parts = 1 if decoding.merged else len(STRIDES)
    for image in range(len(heads[0])):
        rows = []
        for level, stride in enumerate(STRIDES):
            height, width = -(-SIZE[0] // stride), -(-SIZE[1] // stride)
            part = 0 if decoding.merged else level
            classes = heads[part][image]
            bins = heads[part + parts][image] if decoding.order == "pairs" else classes
            start = len(rows) if decoding.merged else 0
            for cell in range(height * width):
                sides = []
                for side in range(4):
                    at = boxes_at + side * decoding.bins
                    raw = [
                        value_at(decoding, bins, start + cell, width, at + i)
                        for i in range(decoding.bins)
                    ]
                    powers = [math.exp(v) for v in raw]
                    mean = sum(i * p for i, p in enumerate(powers)) / sum(powers)
                    sides.append(stride * (raw[0] if decoding.bins == 1 else mean))
                x = (cell % width + decoding.shift) * stride
                y = (cell // width + decoding.shift) * stride
                x1, y1, x2, y2 = x - sides[0], y - sides[1], x + sides[2], y + sides[3]
                scores = [
                    score(decoding, value_at(decoding, classes, start + cell, width, scores_at + c))
                    for c in range(CLASSES)
                ]
                rows.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, *scores])
        images.append(rows)
    return np.array(images)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.sampled_from([0.1, 3.0, 20.0]))
@pytest.mark.parametrize("decoding", [*FREE, *GFL], ids=name)
def test_agrees_with_the_formulas(decoding, seed, spread):
    heads = outputs(decoding, seed=seed, spread=spread)
    before = [h.copy() for h in heads]
    decoded = decoding.decode(heads, SIZE)
    assert decoded.dtype == np.float32
    plain = plain_gfl if isinstance(decoding, GflDecoding) else plain_free
    np.testing.assert_allclose(decoded, plain(heads, decoding), rtol=1e-4, atol=1e-4)
    for head, copy in zip(heads, before, strict=True):
        np.testing.assert_array_equal(head, copy)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.0, 0.001, 0.3, 0.9, 1.0]))
@pytest.mark.parametrize("decoding", [*FREE, *GFL], ids=name)
def test_candidates_are_rows_of_the_whole(decoding, seed, threshold):
    heads = outputs(decoding, seed=seed)
    decoded = decoding.decode(heads, SIZE)
    found = decoding.candidates(heads, SIZE, threshold)
    for rows, candidates in zip(decoded, found, strict=True):
        wanted = rows[rows[:, 4:].max(1) >= threshold]
        assert (candidates[:, 4] == 1).all()
        # Pixels: a centre near 0 is a difference of larger numbers.
        np.testing.assert_allclose(np.delete(candidates, 4, 1), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("decoding", [*FREE, *GFL], ids=name)
def test_detections_are_the_best_of_all_predictions(decoding):
    heads, limits = outputs(decoding), Limits(0.05, 0.5, 7)
    rows = np.insert(decoding.decode(heads, SIZE), 4, 1, axis=2)
    for one, other in zip(decoding.detect(heads, SIZE, limits), nms(rows, limits), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoding", [*FREE, *GFL], ids=name)
def test_what_cannot_pass_is_not_decoded(decoding, monkeypatch):
    placed = []
    real = type(decoding)._placed

    def counting(self, rows, *rest):
        placed.append(len(rows))
        return real(self, rows, *rest)

    monkeypatch.setattr(type(decoding), "_placed", counting)
    heads = outputs(decoding)
    decoding.detect(heads, SIZE, Limits(conf=1.0))
    assert sum(placed) <= 2
    decoding.detect([np.full_like(head, np.nan) for head in heads], SIZE, Limits())
    assert sum(placed) <= 2


@pytest.mark.parametrize("decoding", ALL, ids=name)
def test_a_decoding_is_found_by_its_kind_and_survives_the_way_to_a_process(decoding):
    kind = load_decoding(decoding.kind)
    assert type(decoding) is kind
    assert kind.from_dict(json.loads(json.dumps(decoding.to_dict()))) == decoding
    assert pickle.loads(pickle.dumps(decoding)) == decoding
    shapes = [head.shape for head in outputs(decoding)]
    assert len(shapes) == decoding.heads
    wanted = None if isinstance(decoding, EndToEndDecoding) else CLASSES
    assert decoding.classes(shapes, SIZE) == wanted


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("decoding", ALL, ids=name)
def test_graph_equals_numpy(decoding, opset):
    import onnxruntime as ort

    arrays = outputs(decoding)
    names = [f"head{i}" for i in range(len(arrays))]
    values = [
        [
            helper.make_tensor_value_info(f"{n}{end}", TensorProto.FLOAT, ["batch", *a.shape[1:]])
            for n, a in zip(names, arrays, strict=True)
        ]
        for end in ("_in", "")
    ]
    nodes = [helper.make_node("Neg", [f"{n}_in"], [n], name=n) for n in names]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", *values),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    drawn = append_decode(proto, decoding, SIZE)
    onnx.checker.check_model(drawn, full_check=True)
    session = ort.InferenceSession(drawn.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 4):
        heads = outputs(decoding, batch, seed=batch)
        feeds = {f"head{i}_in": -h for i, h in enumerate(heads)}
        (found,) = session.run(None, feeds)
        np.testing.assert_allclose(found, decoding.decode(heads, SIZE), rtol=1e-4, atol=1e-4)
        assert decoding.drawn.drawn == decoding.drawn
        left = decoding.drawn.detect([found], SIZE, Limits())
        for one, other in zip(left, decoding.detect(heads, SIZE, Limits()), strict=True):
            np.testing.assert_allclose(one[:, 4], other[:, 4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("decoding", "shapes", "message"),
    [
        (FREE[0], [(1, 30, 4)], r"one output B x N x \(4\+classes\)"),
        (FREE[-1], [(1, 4, 30)], r"one output B x \(4\+classes\) x N"),
        (FREE[0], [(1, 30, 7), (1, 30, 7)], "one output"),
        (GFL[0], [(1, 30, 3)], "needs 4 heads"),
        (GFL[0], [(1, 30, 3), (1, 9, 3), (1, 30, 32), (1, 9, 31)], "32 numbers for a box"),
        (GFL[0], [(1, 30, 3), (1, 9, 4), (1, 30, 32), (1, 9, 32)], "same number of classes"),
        (GFL[0], [(1, 30, 3), (1, 6, 3), (1, 30, 32), (1, 9, 32)], "rows of 5 x 6, 3 x 3 cells"),
        (GFL[3], [(1, 64, 5, 6), (1, 67, 3, 3)], "64 numbers for a box"),
        (ALL[-1], [(1, 30, 7)], "one output B x N x 6"),
        (ALL[-1], [(30, 6)], "one output B x N x 6"),
    ],
)
def test_refuses_other_shapes(decoding, shapes, message):
    heads = [np.zeros(s, np.float32) for s in shapes]
    for call in (
        lambda: decoding.decode(heads, SIZE),
        lambda: decoding.detect(heads, SIZE, Limits()),
        lambda: decoding.classes(shapes, SIZE),
    ):
        with pytest.raises(ModelError, match=message):
            call()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: AnchorFreeDecoding("diagonal"), "rows or columns"),
        (lambda: AnchorFreeDecoding(boxes="circles"), "center or corners"),
        (lambda: GflDecoding(()), "strides must be 1 or more"),
        (lambda: GflDecoding((8,), 0), "bins must be from 1 to 1024"),
        (lambda: GflDecoding((8,), order="any"), "order must be"),
        (lambda: GflDecoding((8,), form="any"), "form must be"),
        (lambda: GflDecoding((8, 16), form="maps", merged=True), "cannot be one output"),
    ],
)
def test_what_cannot_be_is_refused(make, why):
    with pytest.raises(ModelError, match=why):
        make()


def test_end_to_end_leaves_out_what_is_no_detection():
    rows = np.array(
        [
            [1, 2, 3, 4, 0.2, 1],
            [1, 2, 3, 4, 0.9, 0],
            [1, 2, 3.1, 4, 0.9, 1],  # overlaps, and stays
            [0, 0, 0, 0, 0.8, 0],
            [5, 2, 3, 4, 0.8, 0],
            [np.nan, 2, 3, 4, 0.8, 0],
            [1, 2, np.inf, 4, 0.8, 0],
            [1, 2, 3, 4, np.nan, 0],
            [1, 2, 3, 4, 0.8, np.nan],
            [1, 2, 3, 4, 0.8, -1],
            [1, 2, 3, 4, 0.001, 0],
        ],
        np.float32,
    )
    decoding = EndToEndDecoding()
    (found,) = decoding.detect([rows[None]], SIZE, Limits())
    np.testing.assert_array_equal(found, rows[[1, 2, 0]])
    (one,) = decoding.detect([rows[None]], SIZE, Limits(detections=1))
    np.testing.assert_array_equal(one, rows[[1]])


def test_a_class_that_the_model_does_not_name_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Neg", ["images"], ["best"], "neg")],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("best", TensorProto.FLOAT, [1, 3, 6])],
    )
    model = FloatModel(
        "m", helper.make_model(graph), Preprocessing(SIZE), EndToEndDecoding(), ("cat",)
    )
    found = np.array([[[1, 2, 3, 4, 0.9, 1]]], np.float32)
    with pytest.raises(ModelError, match="found a class 1, the model names 0 to 0"):
        find_predictions({"best": found}, model, [Placement((1.0, 1.0), 0, 0, SIZE)])
