"""Small graphs with the habits of real exports, and files that must be refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantcore_onnx import OnnxOptions, OnnxPlugin
from quantcore_onnx.anchored import ANCHORS

from quantcore.contracts.model import ModelOptions
from quantcore.errors import CheckpointError, UsageError
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.ir.description import describe
from quantcore.ir.model import FloatModel, Preprocessing

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
CLASSES = 3
KEYS = 5 + CLASSES


class Detector:
    """Writes a detector of three heads: convolutions of stride 8, 16 and 32, then an ending."""

    def __init__(self, size: int | str = 64, batch: int | str = 1) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.image = helper.make_tensor_value_info(
            "images", TensorProto.FLOAT, [batch, 3, size, size]
        )
        self.outputs: list[onnx.ValueInfoProto] = []

    def node(self, op: str, inputs: list[str], name: str = "", **attributes: object) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def constant(self, value: object, dtype: type = np.int64) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def weight(self, *shape: int, low: float = -0.5) -> str:
        return self.constant(self.random.uniform(low, 0.5, shape), np.float32)

    def conv(self, x: str, inputs: int, outputs: int, stride: int, bias: bool = True) -> str:
        tensors = [x, self.weight(outputs, inputs, stride, stride)]
        tensors += [self.weight(outputs)] if bias else []
        return self.node("Conv", tensors, "conv", strides=[stride, stride])

    def norm(self, x: str, channels: int) -> str:
        statistics = [self.weight(channels, low=0.1) for _ in range(4)]
        return self.node("BatchNormalization", [x, *statistics], epsilon=1e-3)

    def heads(self, keys: int = 3 * KEYS) -> list[str]:
        x = self.node("Relu", [self.norm(self.conv("images", 3, 8, 8, bias=False), 8)], "act")
        heads = [self.conv(x, 8, keys, 1)]
        for _ in range(2):
            x = self.node("Relu", [self.conv(x, 8, 8, 2)], "act")
            heads.append(self.conv(x, 8, keys, 1))
        return heads

    def output(self, tensor: str, rank: int) -> None:
        shape = [None] * rank
        self.outputs.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))

    def model(self, opset: int = 13) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "g", [self.image], self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 7
        return model


def raw(detector: Detector) -> Detector:
    for head in reversed(detector.heads()):  # coarsest first, as some exports have it
        detector.output(head, 4)
    return detector


def split(detector: Detector) -> Detector:
    for head, side in zip(detector.heads(), (8, 4, 2), strict=True):
        shape = detector.constant([1, 3, KEYS, side, side])
        parts = detector.node("Reshape", [head, shape])
        detector.output(detector.node("Transpose", [parts], perm=[0, 1, 3, 4, 2]), 5)
    return detector


def flat(detector: Detector, traced: bool = False, keys: int = KEYS, exp: bool = False) -> Detector:
    """B x N x K, by targets fixed at batch 1, or by shapes read at run time as tracing does."""
    rows = []
    for head in detector.heads(keys):
        if traced:
            shape = detector.node("Shape", [head])
            zero = detector.node("Constant", [], value=numpy_helper.from_array(np.array([0])))
            batch = detector.node("Gather", [shape, zero], axis=0)
            rest = detector.constant([keys, -1])
            target = detector.node("Concat", [batch, rest], axis=0)
        else:
            target = detector.constant([1, keys, -1])
        rows.append(detector.node("Reshape", [head, target]))
    joined = detector.node("Concat", rows, axis=2)
    out = detector.node("Transpose", [joined], perm=[0, 2, 1])
    detector.output(detector.node("Exp", [out]) if exp else out, 3)
    return detector


def load(tmp_path, model, preset="yolov5", size=None):
    onnx.save(model, tmp_path / "m.onnx")
    return OnnxPlugin("onnx").load(tmp_path / "m.onnx", OnnxOptions(size, preset))


def infer(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    anonymous = onnx.ModelProto()
    anonymous.CopyFrom(model)
    for node in anonymous.graph.node:  # ONNX Runtime refuses names that occur twice
        node.name = ""
    session = ort.InferenceSession(anonymous.SerializeToString(), options)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def images(batch: int = 1, size: int = 64) -> np.ndarray:
    return np.random.default_rng(1).random((batch, 3, size, size), dtype=np.float32)


def refused(tmp_path, model, preset="yolov5", size=None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, model, preset, size)
    message = str(caught.value)
    assert message.startswith(str(tmp_path))
    assert "\n" not in message
    return message


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the model of ../shared")
def test_yolox_nano():
    path = SHARED / "weights" / "yolox_nano.onnx"
    model = OnnxPlugin("onnx").load(path, OnnxOptions(preset="yolox"))
    pixels = 255 * images(2, 416)
    ours = infer(model.proto, pixels)["output"]
    original = [infer(onnx.load(path), p[None])["output"] for p in pixels]
    assert np.abs(ours - np.concatenate(original)).max() < 1e-5
    assert (model.decoding.kind, model.decoding.strides) == ("grid", (8, 16, 32))
    assert model.preprocessing.size == (416, 416)
    assert (model.preprocessing.channels, model.preprocessing.scale) == ("bgr", 1.0)
    assert model.preprocessing.placement == "top_left"
    assert model.class_names[0] == "person"
    assert model.batch_size is None
    assert sum(layer.op == "conv2d" for layer in model.layers) == 113


def test_raw_heads(tmp_path):
    source = raw(Detector()).model()
    model = load(tmp_path, source)
    assert model.decoding.kind == "anchors"
    assert model.decoding.anchors[0][0] == (10, 13)
    assert load(tmp_path, source, "yolov7").decoding.anchors[0][0] == (12, 16)
    assert model.class_names == ("class0", "class1", "class2")
    assert model.batch_size is None
    ours, wanted = infer(model.proto, images()), infer(source, images())
    assert [ours[n].shape[2] for n in model.output_names] == [8, 4, 2]
    assert all(np.abs(ours[n] - wanted[n]).max() < 1e-5 for n in model.output_names)


def test_split_heads_are_taken_before_the_split(tmp_path):
    source = split(Detector()).model()
    model = load(tmp_path, source)
    ours = list(infer(model.proto, images(3)).values())
    for mine, theirs in zip(ours, infer(source, images(3)[:1]).values(), strict=True):
        again = mine[:1].reshape(1, 3, KEYS, *mine.shape[2:]).transpose(0, 1, 3, 4, 2)
        assert np.abs(again - theirs).max() < 1e-5
    assert not any(node.op_type in ("Reshape", "Transpose") for node in model.proto.graph.node)


@pytest.mark.parametrize("traced", [False, True])
def test_decoded_output_and_its_batch(traced, tmp_path):
    source = flat(Detector(), traced).model()
    model = load(tmp_path, source)
    assert model.decoding.kind == "none"
    assert model.batch_size is None
    assert not any(n.op_type in ("Shape", "Gather") for n in model.proto.graph.node)
    name = model.output_names[0]
    wanted = [infer(source, image[None])[name] for image in images(2)]
    assert np.abs(infer(model.proto, images(2))[name] - np.concatenate(wanted)).max() < 1e-5


def test_batch_stays_one_where_it_cannot_grow(tmp_path):
    detector = Detector()
    rows = [
        detector.node("Reshape", [h, detector.constant([-1, KEYS])]) for h in detector.heads(KEYS)
    ]
    joined = detector.node("Concat", rows, axis=0)
    detector.output(detector.node("Unsqueeze", [joined, detector.constant([0])]), 3)
    assert load(tmp_path, detector.model()).batch_size == 1


def test_yolox_raw_and_decoded(tmp_path):
    assert load(tmp_path, flat(Detector()).model(), "yolox").decoding.kind == "grid"
    assert load(tmp_path, flat(Detector(), exp=True).model(), "yolox").decoding.kind == "none"
    assert "preset yolox needs" in refused(tmp_path, raw(Detector()).model(), "yolox")


def test_dynamic_axes_and_image_size(tmp_path):
    source = flat(Detector("side", "batch"), traced=True).model()
    assert load(tmp_path, source, size=96).preprocessing.size == (96, 96)
    assert load(tmp_path, source).preprocessing.size == (640, 640)
    assert load(tmp_path, source).batch_size is None
    with pytest.raises(UsageError, match="fixed at 64 x 64"):
        load(tmp_path, raw(Detector()).model(), size=96)
    with pytest.raises(UsageError):
        load(tmp_path, source, size=0)


def test_old_opset_is_raised(tmp_path):
    source = raw(Detector()).model(opset=11)
    model = load(tmp_path, source)
    assert model.proto.opset_import[0].version == 17
    ours, wanted = infer(model.proto, images()), infer(source, images())
    assert all(np.abs(ours[n] - wanted[n]).max() < 1e-5 for n in wanted)
    assert load(tmp_path, raw(Detector()).model(14)).proto.opset_import[0].version == 14


def test_nodes_get_names_and_batch_norm_goes(tmp_path):
    detector = raw(Detector())
    lone = detector.norm("images", 3)
    detector.nodes.insert(0, detector.nodes.pop())
    next(n for n in detector.nodes if n.op_type == "Conv").input[0] = lone
    detector.nodes[-1].name = "kept"
    source = detector.model()
    model = load(tmp_path, source)
    names = [node.name for node in model.proto.graph.node]
    assert len(set(names)) == len(names)
    assert "kept" in names
    assert not any(n.op_type == "BatchNormalization" for n in model.proto.graph.node)
    used = {i for node in model.proto.graph.node for i in node.input}
    assert set(model.initializers) <= used
    ours, wanted = infer(model.proto, images()), infer(source, images())
    assert all(np.abs(ours[n] - wanted[n]).max() < 1e-5 for n in wanted)


def test_resize_by_sizes_and_identity(tmp_path):
    detector = Detector()
    x = detector.node("Identity", [detector.conv("images", 3, 8, 16)])
    sizes = detector.constant([1, 8, 8, 8])
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    up = detector.node("Resize", [x, "", "", sizes], nearest_mode="floor", **modes)
    for stride in (1, 2, 4):
        detector.output(detector.conv(up, 8, 3 * KEYS, stride), 4)
    source = detector.model()
    model = load(tmp_path, source)
    resize = next(n for n in model.proto.graph.node if n.op_type == "Resize")
    assert model.initializers[resize.input[2]].tolist() == [1, 1, 2, 2]
    assert not any(n.op_type == "Identity" for n in model.proto.graph.node)
    assert model.batch_size is None
    ours, wanted = infer(model.proto, images()), infer(source, images())
    assert all(np.abs(ours[n] - wanted[n]).max() < 1e-5 for n in wanted)


def test_weights_among_the_inputs(tmp_path):
    source = raw(Detector()).model()
    for c in source.graph.initializer:
        source.graph.input.append(helper.make_tensor_value_info(c.name, c.data_type, c.dims))
    assert load(tmp_path, source).input_name == "images"


def test_same_bytes_twice(tmp_path):
    source = flat(Detector(), traced=True).model()
    assert load(tmp_path, source).fingerprint == load(tmp_path, source).fingerprint


def test_preset_is_required(tmp_path):
    for preset in (None, "yolov9"):
        with pytest.raises(UsageError, match="yolov5, yolov7, yolox"):
            load(tmp_path, raw(Detector()).model(), preset)


def test_options_of_any_model_leave_the_preset_open(tmp_path):
    onnx.save(raw(Detector()).model(), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="needs a preset"):
        OnnxPlugin("onnx").load(tmp_path / "m.onnx", ModelOptions(64))


def test_an_image_need_not_be_square(tmp_path):
    found = load(tmp_path, raw(Detector(size="side")).model(), size=(64, 96))
    assert found.preprocessing.size == (64, 96)
    with pytest.raises(UsageError, match="leave image size 64 x 96 away"):
        load(tmp_path, raw(Detector()).model(), size=(64, 96))


def written(tmp_path, boxes, preprocessing=None) -> FloatModel:
    """A described file of three raw heads, with what the plugin would otherwise rewrite."""
    detector = raw(Detector(batch="batch"))
    detector.nodes.insert(1, helper.make_node("Identity", ["t0"], ["same"], "own/name"))
    detector.nodes = [n for n in detector.nodes if n.op_type != "BatchNormalization"]
    detector.nodes[2].input[0] = "same"
    for i, item in enumerate(detector.nodes):
        item.name = item.name if item.op_type == "Identity" else f"node.{i}"
    names = tuple(f"kind {i}" for i in range(CLASSES))
    preprocessing = preprocessing or Preprocessing((64, 64))
    model = FloatModel("mine", detector.model(), preprocessing, boxes, names)
    (tmp_path / "own.onnx").write_bytes(describe(model).SerializeToString())
    return model


OWN = AnchorDecoding((32, 16, 8), (((1.5, 2.5), (3, 4), (5, 6)),) * 3)


def own(tmp_path, preset=None, size=None) -> FloatModel:
    return OnnxPlugin("onnx").load(tmp_path / "own.onnx", OnnxOptions(size, preset))


def test_a_described_file_is_taken_as_it_is(tmp_path):
    model = written(tmp_path, OWN)
    found = own(tmp_path, size=64)
    assert found.fingerprint == model.fingerprint
    assert found.layers == model.layers
    assert [n.op_type for n in found.proto.graph.node][:2] == ["Conv", "Identity"]
    assert (found.name, found.class_names) == ("mine", model.class_names)
    assert (found.preprocessing, found.decoding) == (model.preprocessing, OWN)
    assert describe(found).SerializeToString() == (tmp_path / "own.onnx").read_bytes()


def test_a_preset_may_only_say_what_the_file_says(tmp_path):
    written(tmp_path, AnchorDecoding((8, 16, 32), ANCHORS["yolov7"]))
    assert own(tmp_path, "yolov7").decoding.anchors == ANCHORS["yolov7"]
    for preset in ("yolov5", "yolox"):
        with pytest.raises(UsageError, match=f"own.onnx: .* than preset {preset}"):
            own(tmp_path, preset)
    with pytest.raises(UsageError, match="not 'yolov9'"):
        own(tmp_path, "yolov9")
    written(tmp_path, OWN)
    with pytest.raises(UsageError, match="than preset yolov5"):
        own(tmp_path, "yolov5")
    written(tmp_path, OWN, Preprocessing((64, 64), pad_value=0))
    with pytest.raises(UsageError, match="than preset yolov5"):
        own(tmp_path, "yolov5")


def test_another_size_than_described_is_refused(tmp_path):
    written(tmp_path, OWN)
    with pytest.raises(UsageError, match=r"own\.onnx: is described for 64 x 64 pixels"):
        own(tmp_path, size=96)


def test_a_described_yolox_takes_only_its_preset(tmp_path):
    found = load(tmp_path, flat(Detector()).model(), "yolox")
    assert found.decoding.kind == "grid"
    (tmp_path / "own.onnx").write_bytes(describe(found).SerializeToString())
    assert own(tmp_path).fingerprint == found.fingerprint
    assert own(tmp_path, "yolox").decoding == found.decoding
    for preset in ANCHORS:
        with pytest.raises(UsageError, match="leave the preset away"):
            own(tmp_path, preset)


def test_a_described_file_is_checked_like_any_other(tmp_path):
    written(tmp_path, OWN)
    path = tmp_path / "own.onnx"
    whole = onnx.load(path)
    more = helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
    for change, why in (
        (lambda m: m.metadata_props[0].ClearField("value"), "its description"),
        (lambda m: m.graph.node[0].ClearField("name"), "needs a unique name"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"), "not a valid ONNX graph"),
        (lambda m: setattr(m.graph.node[2], "op_type", "QLinearConv"), "quantized already"),
        (lambda m: m.graph.input.append(more), "must have one input"),
    ):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        change(model)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(CheckpointError, match=why) as caught:
            own(tmp_path)
        assert str(caught.value).startswith(str(path))


def test_quantized_and_unsupported_nodes(tmp_path):
    detector = raw(Detector())
    scale, zero = detector.constant(0.1, np.float32), detector.constant(0, np.int8)
    q = detector.node("QuantizeLinear", ["images", scale, zero], "q")
    detector.output(detector.node("DequantizeLinear", [q, scale, zero]), 4)
    assert "quantized already (node q" in refused(tmp_path, detector.model())
    detector = raw(Detector())
    detector.nodes.append(helper.make_node("EfficientNMS_TRT", ["t0"], ["x"], domain="TRT"))
    assert "not supported" in refused(tmp_path, detector.model())


def test_inputs_that_are_no_images(tmp_path):
    assert "fixed at 4" in refused(tmp_path, raw(Detector(batch=4)).model())
    model = raw(Detector()).model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    assert "FP32 images" in refused(tmp_path, model)
    model = raw(Detector()).model()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    assert "one input" in refused(tmp_path, model)


def test_outputs_of_another_kind(tmp_path):
    detector = Detector()
    for head in detector.heads()[:2]:
        detector.output(head, 4)
    assert "preset yolov5 needs" in refused(tmp_path, detector.model())
    other = raw(Detector(size=96)).model()
    for node in other.graph.node[:1]:
        node.attribute[0].ints[:] = [4, 4]
    assert "this graph has" in refused(tmp_path, other)
    assert "this graph has" in refused(tmp_path, flat(Detector(), keys=5).model())


def test_unreadable_files(tmp_path):
    plugin, options = OnnxPlugin("onnx"), OnnxOptions(preset="yolov5")
    text, whole = tmp_path / "text.onnx", tmp_path / "whole.onnx"
    text.write_text("this is no model")
    onnx.save(raw(Detector()).model(), whole)
    short = tmp_path / "short.onnx"
    short.write_bytes(whole.read_bytes()[:-100])
    empty = tmp_path / "empty.onnx"
    empty.touch()
    for path in (text, short, empty, tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(CheckpointError) as caught:
            plugin.load(path, options)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_invalid_graph(tmp_path):
    model = raw(Detector()).model()
    model.graph.node[0].input[0] = "nowhere"
    refused(tmp_path, model)
