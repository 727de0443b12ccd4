"""Networks as people export them: the noise around them, and what their files say of themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantcore_onnx import OnnxOptions, OnnxPlugin
from quantcore_onnx import constants as folding

from quantcore.contracts.registry import load_decoding
from quantcore.errors import CheckpointError, UsageError
from quantcore.evaluation.decoding.anchor_free import AnchorFreeDecoding
from quantcore.evaluation.decoding.end_to_end import EndToEndDecoding
from quantcore.evaluation.decoding.gfl import GflDecoding
from quantcore.ir.description import describe, described
from quantcore.ir.model import FloatModel, Preprocessing

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
shared = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="needs the models of ../shared"),
]
STRIDES = (8, 16, 32)
CLASSES = 3
NAMES = {"names": "{0: 'köter', 1: 'cat', 2: \"can't\"}", "task": "detect", "stride": "32"}


class Net:
    """Writes a graph node by node, as exporters do: a Constant node for every number."""

    def __init__(self, size=(64, 96), batch=1, dtype=np.float32, opset=17) -> None:
        self.size, self.batch, self.dtype, self.opset = size, batch, dtype, opset
        self.sides = size if isinstance(size[0], int) else (64, 96)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.outputs: list[str] = []
        self.rank = 3
        self.metadata: dict[str, str] = {}

    def add(self, op, *inputs, outputs=1, **attributes):
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, names[0], **attributes))
        return names[0] if outputs == 1 else names

    def const(self, value, dtype=np.int64):
        return self.add("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def floats(self, value):
        return self.const(value, self.dtype)

    def conv(self, x, inputs, outputs, stride=1):
        name = f"w{len(self.weights)}"
        values = self.random.uniform(-0.5, 0.5, (outputs, inputs, stride, stride))
        self.weights.append(numpy_helper.from_array(values.astype(self.dtype), name))
        return self.add("Conv", x, name, strides=[stride, stride])

    def dim(self, x, axis):
        return self.add("Gather", self.add("Shape", x), self.const(axis), axis=0)

    def joined(self, *dims):
        parts = [self.add("Unsqueeze", d, self.const([0])) for d in dims]
        return self.add("Concat", *parts, axis=0)

    def c2f(self, x):
        """Halves split by computed bounds, as a plain export of C2f does it."""
        half = self.add("Div", self.add("Add", self.dim(x, 1), self.const(1)), self.const(2))
        ends = self.add("Mul", half, self.const(2))
        bounds = [self.add("Unsqueeze", v, self.const([0])) for v in (half, ends)]
        axis = self.const([1])
        first = self.add("Slice", x, self.const([0]), bounds[0], axis)
        second = self.add("Slice", x, bounds[0], bounds[1], axis)
        return self.add("Concat", first, self.add("Relu", second), axis=1)

    def features(self):
        x = self.add("Dropout", self.add("Identity", "images"))
        x = self.c2f(self.add("Relu", self.conv(x, 3, 8, 8)))
        found = [x]
        for _ in STRIDES[1:]:
            found.append(self.add("Relu", self.conv(found[-1], 8, 8, 2)))
        return found

    def heads(self, keys):
        return [self.conv(x, 8, keys) for x in self.features()]

    def flat(self, head, keys):
        """B x K x cells; the batch read at run time."""
        shape = self.joined(self.dim(head, 0), self.const(keys), self.const(-1))
        return self.add("Reshape", head, shape)

    def grid(self):
        points = [
            ((np.stack(np.mgrid[: self.sides[0] // s, : self.sides[1] // s][::-1]) + 0.5), s)
            for s in STRIDES
        ]
        where = np.concatenate([p.reshape(2, -1) for p, _ in points], 1)
        strides = np.concatenate([np.full(p[0].size, s) for p, s in points])
        return self.floats(where[None]), self.floats(strides[None, None])

    def boxes(self, distances, corners):
        """Distances in cells to boxes in pixels, drawn as Ultralytics does."""
        points, strides = self.grid()
        low, high = self.add("Split", distances, self.const([2, 2]), axis=1, outputs=2)
        low, high = self.add("Sub", points, low), self.add("Add", points, high)
        if corners:
            boxes = self.add("Concat", low, high, axis=1)
        else:
            middle = self.add("Div", self.add("Add", low, high), self.floats(2))
            boxes = self.add("Concat", middle, self.add("Sub", high, low), axis=1)
        return self.add("Mul", boxes, strides)

    def yolov8(self, corners=False, sigmoid=True, rows=False):
        whole = self.add("Concat", *(self.flat(h, 4 + CLASSES) for h in self.heads(7)), axis=2)
        split = self.const([4, CLASSES])
        distances, scores = self.add("Split", whole, split, axis=1, outputs=2)
        scores = self.add("Sigmoid", scores) if sigmoid else scores
        out = self.add("Concat", self.boxes(distances, corners), scores, axis=1)
        self.outputs = [self.add("Transpose", out, perm=[0, 2, 1]) if rows else out]
        return self

    def yolo26(self, most=20):
        (out,) = self.yolov8(corners=True, rows=True).outputs
        boxes, scores = self.add("Split", out, self.const([4, CLASSES]), axis=2, outputs=2)
        flat = self.add("Flatten", scores, axis=1)
        best, index = self.add("TopK", flat, self.const([most]), axis=1, outputs=2)
        anchor = self.add("Div", index, self.const(CLASSES))
        label = self.add("Cast", self.add("Mod", index, self.const(CLASSES)), to=1)
        anchor = self.add("Unsqueeze", anchor, self.const([2]))
        tiled = self.add("Tile", anchor, self.const([1, 1, 4]))
        box = self.add("GatherElements", boxes, tiled, axis=1)
        last = [self.add("Unsqueeze", each, self.const([2])) for each in (best, label)]
        self.outputs = [self.add("Concat", box, *last, axis=2)]
        return self

    def gfl(self, sigmoid=True, bins=8, merged=False):
        scores, boxes = [], []
        for x in self.features():
            score = self.conv(x, 8, CLASSES)
            scores.append(self.flat(self.add("Sigmoid", score) if sigmoid else score, CLASSES))
            boxes.append(self.flat(self.conv(x, 8, 4 * bins), 4 * bins))
        both = [self.add("Transpose", x, perm=[0, 2, 1]) for x in (*scores, *boxes)]
        if merged:
            levels = [self.add("Concat", s, b, axis=1) for s, b in zip(scores, boxes, strict=True)]
            both = [self.add("Transpose", self.add("Concat", *levels, axis=2), perm=[0, 2, 1])]
        self.outputs = both
        return self

    def raw(self):
        self.outputs, self.rank = self.heads(64 + CLASSES), 4
        return self

    def model(self) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        image = helper.make_tensor_value_info("images", kind, [self.batch, 3, *self.size])
        shape = [None] * self.rank
        ends = [helper.make_tensor_value_info(o, kind, shape) for o in self.outputs]
        graph = helper.make_graph(self.nodes, "main", [image], ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        helper.set_model_props(model, self.metadata)
        return model


def said(net: Net, **more: str) -> Net:
    net.metadata = NAMES | more
    return net


def load(folder: Path, model: onnx.ModelProto | Net, preset=None, size=None) -> FloatModel:
    onnx.save(model.model() if isinstance(model, Net) else model, folder / "m.onnx")
    return OnnxPlugin("onnx").load(folder / "m.onnx", OnnxOptions(size, preset))


def refused(folder: Path, model, preset=None, kind=CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        load(folder, model, preset)
    assert str(folder / "m.onnx") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"images": images})


def images(batch=1, sides=(64, 96)) -> np.ndarray:
    return np.random.default_rng(1).random((batch, 3, *sides), dtype=np.float32)


def check(model: FloatModel, source: onnx.ModelProto) -> None:
    """The same results as the file's, and nothing left that quantization cannot use."""
    pixels = images(sides=model.preprocessing.size)
    ours, theirs = run(model.proto, pixels), run(source, pixels)
    for mine, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-4)
    left = {node.op_type for node in model.proto.graph.node}
    assert left.isdisjoint({"Constant", "Shape", "Identity", "Dropout", "Gather", "Unsqueeze"})
    again = described(describe(model), Path("m.onnx"), load_decoding)
    assert again is not None
    assert again.key == model.key


CASES = {
    "columns": (said(Net().yolov8()), AnchorFreeDecoding("columns")),
    "unsaid": (Net().yolov8(), AnchorFreeDecoding("columns")),
    "rows": (said(Net().yolov8(rows=True)), AnchorFreeDecoding("rows")),
    "corners": (Net().yolov8(corners=True), AnchorFreeDecoding("columns", "corners")),
    "logits": (Net().yolov8(sigmoid=False), AnchorFreeDecoding("columns", sigmoid=True)),
    "all": (
        said(Net().yolov8(True, False, True)),
        AnchorFreeDecoding("rows", "corners", True),
    ),
    "raw": (said(Net().raw()), GflDecoding(STRIDES, 16, "boxes_first", "maps", sigmoid=True)),
    "dynamic": (said(Net(batch="n").yolov8()), AnchorFreeDecoding("columns")),
    "opset 13": (said(Net(opset=13).yolov8()), AnchorFreeDecoding("columns")),
    "opset 20": (said(Net(opset=20).yolov8()), AnchorFreeDecoding("columns")),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_says_what_it_is(case, tmp_path):
    net, decoding = CASES[case]
    model = load(tmp_path, net)
    check(model, net.model())
    assert model.decoding == decoding
    assert model.preprocessing == Preprocessing((64, 96))
    assert model.batch_size is None
    if net.metadata:
        assert model.class_names == ("köter", "cat", "can't")
    else:
        assert model.class_names == ("class0", "class1", "class2")
    assert load(tmp_path, net, "yolov8").key == model.key


def test_end_to_end_with_its_tail(tmp_path):
    net = said(Net().yolo26(), end2end="True")
    model = load(tmp_path, net)
    assert (model.decoding, len(model.class_names)) == (EndToEndDecoding(), 3)
    assert {"TopK", "GatherElements", "Mod"} <= {n.op_type for n in model.proto.graph.node}
    for mine, wanted in zip(run(model.proto, images()), run(net.model(), images()), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-4)
    silent = load(tmp_path, Net().yolo26())
    assert silent.class_names == ("class0", "class1", "class2")  # by what the tail divides by


@pytest.mark.parametrize("preset", ["yolov5", "yolov7", "yolox", "yolov8", "picodet", "nanodet"])
def test_detections_are_not_predictions(preset, tmp_path):
    message = refused(tmp_path, Net().yolo26(), preset)
    assert f"preset {preset} needs" in message
    assert "1 x 20 x 6; those fit preset end2end" in message


@pytest.mark.parametrize("preset", ["yolov5", "yolox", "end2end", "picodet"])
def test_columns_are_not_rows(preset, tmp_path):
    message = refused(tmp_path, said(Net().yolov8()), preset)
    assert f"preset {preset} needs" in message
    assert "and names 3 classes; those fit preset yolov8" in message


@pytest.mark.parametrize(("count", "keys", "fits"), [(50, 85, True), (300, 6, False)])
def test_rows_may_be_fewer_than_numbers_but_no_detections(count, keys, fits, tmp_path):
    net = Net(size=(80, 160))
    head = net.conv(net.conv("images", 3, 8, 16), 8, keys)
    out = net.add("Transpose", net.flat(head, keys), perm=[0, 2, 1])
    if not fits:
        out = net.add("Pad", out, net.const([0, 0, 0, 0, 250, 0]))
    net.outputs = [out]
    if fits:
        assert len(load(tmp_path, net, "yolov5").class_names) == 80
    else:
        assert "fit preset end2end" in refused(tmp_path, net, "yolov5")


@pytest.mark.parametrize("sigmoid", [True, False])
def test_picodet_and_nanodet_need_their_preset(sigmoid, tmp_path):
    net = Net().gfl(sigmoid)
    assert "fit picodet or nanodet" in refused(tmp_path, net, kind=UsageError)
    pico, nano = load(tmp_path, net, "picodet"), load(tmp_path, net, "nanodet")
    check(pico, net.model())
    assert pico.decoding == nano.decoding == GflDecoding(STRIDES, sigmoid=not sigmoid)
    looks = pico.preprocessing
    assert (looks.fit, looks.interpolation, looks.channels) == ("stretch", "cubic", "rgb")
    looks = nano.preprocessing
    assert (looks.fit, looks.interpolation, looks.channels) == ("letterbox", "linear", "bgr")
    assert looks.mean == (103.53, 116.28, 123.675)
    assert len(pico.class_names) == CLASSES


def test_nanodet_in_one_output(tmp_path):
    net = Net().gfl(merged=True)
    model = load(tmp_path, net, "nanodet")
    check(model, net.model())
    assert model.decoding == GflDecoding(STRIDES, 8, "scores_first", "rows", merged=True)
    assert len(model.class_names) == CLASSES


def test_other_bins_are_told_by_the_names(tmp_path):
    net = said(Net().gfl(merged=True, bins=11))
    assert load(tmp_path, net, "nanodet").decoding.bins == 11


def test_old_opset_half_precision_and_weights_as_inputs(tmp_path):
    """As NanoDet's exports have it: opset 11, where Split and Unsqueeze have attributes."""
    net = Net(opset=11)
    found = [net.conv("images", 3, 8, 8)]
    for _ in STRIDES[1:]:
        found.append(net.conv(found[-1], 8, 8, 2))
    scores, boxes = [], []
    for x in found:
        parts = net.add("Split", net.conv(x, 8, 35), axis=1, split=[3, 32], outputs=2)
        shapes = [net.const([1, k, -1]) for k in (3, 32)]
        flat = [net.add("Reshape", p, s) for p, s in zip(parts, shapes, strict=True)]
        scores.append(net.add("Transpose", net.add("Sigmoid", flat[0]), perm=[0, 2, 1]))
        boxes.append(net.add("Transpose", flat[1], perm=[0, 2, 1]))
    net.outputs = [*scores, *boxes]
    source = net.model()
    for w in source.graph.initializer:
        source.graph.input.append(helper.make_tensor_value_info(w.name, w.data_type, w.dims))
    model = load(tmp_path, source, "picodet")
    assert model.input_name == "images"
    assert model.proto.opset_import[0].version == 17
    ours, wanted = run(model.proto, images()), run(net.model(), images())
    for one, other in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_half_precision_comes_back_to_float32(tmp_path):
    net = said(Net(dtype=np.float16).yolov8())
    source = net.model()
    model = load(tmp_path, source)
    kinds = {i.data_type for i in model.proto.graph.initializer}
    assert TensorProto.FLOAT16 not in kinds
    (ours,) = run(model.proto, images())
    (theirs,) = run(source, images().astype(np.float16))
    np.testing.assert_allclose(ours, theirs, rtol=0.02, atol=0.5)
    for number in (0, 1):  # a cast into half precision and one out of it
        net = said(Net().yolov8())
        (out,) = net.outputs
        kind = [TensorProto.FLOAT16, TensorProto.FLOAT]
        net.outputs = [net.add("Cast", net.add("Cast", out, to=kind[0]), to=kind[1])][: 1 + number]
        model = load(tmp_path, net)
        assert "Cast" not in {n.op_type for n in model.proto.graph.node}
        assert model.output_names == tuple(net.outputs)


@pytest.mark.parametrize("shaped", [True, False])
def test_double_precision_and_outputs_without_shape(shaped, tmp_path):
    """As torch exports a plain tail, unless it folds constants itself."""
    net = said(Net().yolov8())
    double = net.add("Cast", net.outputs[0], to=TensorProto.DOUBLE)
    net.outputs = [net.add("Mul", double, net.const(1.0, np.float64))]
    source = net.model()
    source.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    source.graph.value_info.append(helper.make_tensor_value_info(double, TensorProto.DOUBLE, None))
    if not shaped:
        source.graph.output[0].type.tensor_type.ClearField("shape")
    check(load(tmp_path, source), source)


def test_weights_in_a_file_beside(tmp_path):
    net = said(Net().yolov8())
    onnx.save(
        net.model(), tmp_path / "e.onnx", save_as_external_data=True, location="e.bin",
        size_threshold=0,
    )  # fmt: skip
    assert (tmp_path / "e.bin").stat().st_size > 0
    model = OnnxPlugin("onnx").load(tmp_path / "e.onnx", OnnxOptions())
    assert model.fingerprint == load(tmp_path, net).fingerprint
    (tmp_path / "e.bin").unlink()
    with pytest.raises(CheckpointError, match=r"e\.onnx: .*e\.bin"):
        OnnxPlugin("onnx").load(tmp_path / "e.onnx", OnnxOptions())


def test_the_size_is_the_persons_or_the_files(tmp_path):
    net = said(Net(size=("h", "w"), batch="n").yolov8(), imgsz="[64, 96]")
    assert load(tmp_path, net).preprocessing.size == (64, 96)
    assert load(tmp_path, net, size=(64, 96)).preprocessing.size == (64, 96)
    with pytest.raises(UsageError, match="fixed at 64 x 96"):
        load(tmp_path, said(Net().yolov8()), size=(96, 64))


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{0: 'a'", "task": "detect"},
        {"names": "__import__('os').system('true')"},
        {"names": "{0: 'a', 2: 'b', 3: 'c'}"},
        {"names": "[" * 5000},
        {"imgsz": "wide"},
        {"names": "[1, 2, 3]"},
    ],
)
def test_metadata_that_makes_no_sense_counts_as_none(metadata, tmp_path):
    net = Net().yolov8()
    net.metadata = metadata
    assert load(tmp_path, net).class_names == ("class0", "class1", "class2")


def test_names_that_contradict_the_outputs(tmp_path):
    net = said(Net().yolov8(), names="['a', 'b']")
    assert "known are yolov5" in refused(tmp_path, net)
    assert "names 2 classes" in refused(tmp_path, net, "yolov8")
    assert "task 'segment'" in refused(tmp_path, said(Net().yolov8(), task="segment"))


@pytest.mark.parametrize(
    "op", ["QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"]
)
def test_quantized_files_are_refused(op, tmp_path):
    net = Net().yolov8()
    net.nodes.append(helper.make_node(op, ["images"], ["q"], "the/node"))
    message = refused(tmp_path, net)
    assert f"quantized already (node the/node is a {op}); give the float model" in message


def test_an_output_that_is_renamed_keeps_its_name(tmp_path):
    net = said(Net().yolov8())
    net.nodes.append(helper.make_node("Identity", net.outputs, ["output0"], "end"))
    net.outputs = ["output0"]
    model = load(tmp_path, net)
    check(model, net.model())
    assert model.output_names == ("output0",)


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Tile", "Pad", "Range"])
def test_no_constant_grows_without_bound(op, tmp_path, monkeypatch):
    """Results are refused by their size before they are computed."""
    net = said(Net().yolov8())
    one, huge = net.floats([1]), net.const([1 << 36])
    makers = {
        "ConstantOfShape": (huge,),
        "Expand": (one, huge),
        "Tile": (one, huge),
        "Pad": (one, net.const([0, 1 << 36])),
        "Range": (net.const(0), net.const(1 << 36), net.const(1)),
    }
    grown = net.add(op, *makers[op])
    short = net.add("Slice", grown, net.const([0]), net.const([1]))
    zero = net.add("Mul", net.add("Cast", short, to=1), net.floats([0]))
    net.outputs = [net.add("Add", net.outputs[0], zero)]
    ran = []
    real = folding.ReferenceEvaluator

    def watched(single):
        ran.append(single.graph.node[0].op_type)
        return real(single)

    monkeypatch.setattr(folding, "ReferenceEvaluator", watched)
    monkeypatch.setattr("quantcore_onnx.plugin.free_batch", lambda model, path: model)
    model = load(tmp_path, net)
    assert op not in ran
    assert op in {n.op_type for n in model.proto.graph.node}


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the models of ../shared")
@pytest.mark.parametrize(
    ("name", "preset", "decoding", "batch"),
    [
        ("yolov8n", None, AnchorFreeDecoding("columns"), None),
        ("yolo26n", None, EndToEndDecoding(), 1),
        ("picodet_s_320", "picodet", GflDecoding((8, 16, 32, 64)), None),
    ],
)
def test_real_networks(name, preset, decoding, batch):
    path = SHARED / "weights" / f"{name}.onnx"
    model = OnnxPlugin("onnx").load(path, OnnxOptions(preset=preset))
    assert (model.decoding, model.batch_size) == (decoding, batch)
    assert (model.class_names[0], len(model.class_names)) == ("person", 80)
    assert "Constant" not in {n.op_type for n in model.proto.graph.node}
    entry = model.input_name
    pixels = images(sides=model.preprocessing.size)
    sessions = [ort.InferenceSession(m) for m in (model.proto.SerializeToString(), str(path))]
    ours, theirs = (session.run(None, {entry: pixels}) for session in sessions)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())
