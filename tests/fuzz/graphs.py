"""ONNX files to start from, and changes of what stands in them: types, shapes, numbers, edges."""

from __future__ import annotations

import random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantcore.ir.description import describe
from quantcore.testing.models import small_detector

_LENGTHS = (0, -1, 1, 2, 7, 64, 1 << 30, 1 << 40, -(1 << 62))
_OPERATORS = (
    *("Pad", "Expand", "ConstantOfShape", "Range", "Tile", "Resize", "Reshape", "Gather", "Slice"),
    *("Split", "Concat", "Conv", "MatMul", "Loop", "If", "Cast", "BatchNormalization", "NoSuchOp"),
    *("Transpose", "Squeeze", "Unsqueeze", "Upsample", "Softmax", "TopK", "QuantizeLinear"),
)


def samples() -> list[bytes]:
    """A file that describes itself, and one as it is exported: constants, folding, batch-norm."""
    return [describe(small_detector()).SerializeToString(), _exported().SerializeToString()]


def _exported() -> onnx.ModelProto:
    node, random_ = helper.make_node, np.random.default_rng(0)
    weights = {
        "w": random_.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "h": random_.standard_normal((7, 4, 1, 1)).astype(np.float32),
        **{name: np.ones(4, np.float32) for name in ("scale", "bias", "mean", "var")},
        "axes": np.array([0], np.int64),
        "last": np.array([-1], np.int64),
    }
    size = numpy_helper.from_array(np.array([1, 7, 64], np.int64))
    nodes = [
        node("Conv", ["images", "w"], ["a"], "conv", pads=[1] * 4, strides=[4, 4]),
        node("BatchNormalization", ["a", "scale", "bias", "mean", "var"], ["b"], "bn"),
        node("Identity", ["b"], ["c"], "same"),
        node("Relu", ["c"], ["d"], "relu"),
        node("MaxPool", ["d"], ["e"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["e", "h"], ["f"], "head"),
        node("Constant", [], ["size"], "const", value=size),
        node("Shape", ["f"], ["shape"], "shape"),
        node("Gather", ["shape", "axes"], ["batch"], "batch"),
        node("Slice", ["size", "axes", "last"], ["part"], "part"),
        node("Reshape", ["f", "size"], ["g"], "flat"),
        node("Transpose", ["g"], ["output"], "last", perm=[0, 2, 1]),
    ]
    ends = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 64, 7])]
    image = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", image, ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def other_field(data: bytes, draw: random.Random) -> bytes:
    """One thing in the graph changed, where the bytes still are one."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        draw.choice((_node, _attribute, _constant, _shape, _opset))(model, draw)
    except Exception:  # what an earlier change has broken stays so
        return data
    return bytes(model.SerializeToString())


def _node(model: onnx.ModelProto, draw: random.Random) -> None:
    nodes = model.graph.node
    one, other = draw.choice(nodes), draw.choice(nodes)
    way = draw.randrange(6)
    if way == 0:
        one.op_type = draw.choice(_OPERATORS)
    elif way == 1 and one.input:
        one.input[draw.randrange(len(one.input))] = draw.choice(["", "nowhere", *other.output])
    elif way == 2:
        one.name = draw.choice(["", other.name, "a\nb", "[/bold]", "x" * 10_000])
    elif way == 3:
        nodes.remove(one)
    elif way == 4:
        del one.input[:]
    else:
        nodes.add().CopyFrom(one)


def _attribute(model: onnx.ModelProto, draw: random.Random) -> None:
    attribute = draw.choice([a for node in model.graph.node for a in node.attribute])
    way = draw.randrange(4)
    if way == 0 and attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(_LENGTHS)
    elif way == 1:
        attribute.ints.extend([draw.choice(_LENGTHS)] * draw.choice((1, 5, 1000)))
    elif way == 2:
        del attribute.ints[:]
    else:
        attribute.type = draw.randrange(1, 14)


def _constant(model: onnx.ModelProto, draw: random.Random) -> None:
    tensor = draw.choice(model.graph.initializer)
    way = draw.randrange(5)
    if way == 0:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(_LENGTHS)
    elif way == 1:
        tensor.data_type = draw.choice((0, 2, 7, 8, 10, 16, 99))
    elif way == 2:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data))]
    elif way == 3:
        tensor.raw_data = bytes(draw.randrange(256) for _ in tensor.raw_data[:512])
    else:
        tensor.dims.extend([draw.choice(_LENGTHS)])


def _shape(model: onnx.ModelProto, draw: random.Random) -> None:
    graph = model.graph
    kind = draw.choice([*graph.input, *graph.output, *graph.value_info]).type.tensor_type
    if draw.randrange(3) == 0:
        kind.elem_type = draw.choice((0, 7, 10, 99))
    elif kind.shape.dim:
        kind.shape.dim[draw.randrange(len(kind.shape.dim))].dim_value = draw.choice(_LENGTHS)


def _opset(model: onnx.ModelProto, draw: random.Random) -> None:
    if draw.randrange(2):
        model.opset_import[0].version = draw.choice((0, 1, 5, 9, 11, 30, -1, 1 << 40))
    else:
        model.ir_version = draw.choice((0, 1, 99))
