"""One Paddle layer or function for each node of the float graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.nn import functional as F

from quantcore.contracts.nodes import Node

Call = Callable[..., Any]
Tensor = Any


def to_tensor(values: npt.NDArray[np.generic]) -> Tensor:
    """A tensor of its own memory: the float model's constants are read-only and stay untouched."""
    return paddle.to_tensor(np.array(values))


# Nodes that become Paddle's own layers, so that its PTQ recognises them.


def conv(node: Node) -> paddle.nn.Layer:
    """Conv as Conv2D."""
    weight = _weight(node, 4)
    groups = int(node.attributes.get("group", 1))
    layer = paddle.nn.Conv2D(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        stride=node.pair("strides"),
        padding=_padding(node),
        dilation=node.pair("dilations"),
        groups=groups,
        **_parameters(node),
    )
    return _filled(layer, weight, node)


def conv_transpose(node: Node) -> paddle.nn.Layer:
    """ConvTranspose as Conv2DTranspose; both store I x O x kH x kW."""
    weight = _weight(node, 4)
    groups = int(node.attributes.get("group", 1))
    if "output_shape" in node.attributes:
        raise node.refused("needs pads, not output_shape")
    layer = paddle.nn.Conv2DTranspose(
        weight.shape[0],
        weight.shape[1] * groups,
        weight.shape[2:],
        stride=node.pair("strides"),
        padding=_padding(node),
        output_padding=list(node.pair("output_padding", 0)),
        dilation=node.pair("dilations"),
        groups=groups,
        **_parameters(node),
    )
    return _filled(layer, weight, node)


def linear(node: Node) -> paddle.nn.Layer:
    """Gemm or MatMul as Linear, whose weight is inputs x outputs."""
    weight = _weight(node, 2)
    scaled = any(node.attributes.get(k, 1.0) != 1.0 for k in ("alpha", "beta"))
    if scaled or node.attributes.get("transA", 0):
        raise node.refused("needs alpha = beta = 1 and no transA")
    if node.attributes.get("transB", 0):
        weight = weight.T
    layer = paddle.nn.Linear(weight.shape[0], weight.shape[1], **_parameters(node))
    return _filled(layer, weight, node)


def max_pool(node: Node) -> paddle.nn.Layer:
    """MaxPool as MaxPool2D."""
    if node.pair("dilations") != (1, 1):
        raise node.refused("Paddle's max pooling has no dilation")
    if len(node.outputs) != 1:
        raise node.refused("indices are not supported")
    return paddle.nn.MaxPool2D(
        node.pair("kernel_shape"),
        node.pair("strides"),
        _padding(node),
        ceil_mode=bool(node.attributes.get("ceil_mode", 0)),
    )


def add(node: Node) -> paddle.nn.Layer:
    """Add of two activations as Paddle's functional layer."""
    return paddle.nn.quant.add()


LAYERS: dict[str, Callable[[Node], paddle.nn.Layer]] = {
    "Add": add,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": linear,
    "MatMul": linear,
    "MaxPool": max_pool,
}


def builder_of(node: Node) -> Callable[[Node], paddle.nn.Layer] | None:
    """What makes the node's layer; None where it is a plain function call."""
    if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        weighted = 1 in node.constants and 0 not in node.constants
        return LAYERS[node.op] if weighted else None
    if node.op == "Add" and node.constants:
        return None
    return LAYERS.get(node.op)


def _weight(node: Node, rank: int) -> npt.NDArray[np.generic]:
    weight = node.constant(1)
    if weight is None or weight.ndim != rank:
        raise node.refused(f"needs a constant weight of rank {rank}")
    return weight


def _parameters(node: Node) -> dict[str, Any]:
    """Parameters under the layer's own name.

    Paddle would name them from a counter of the process (utils/unique_name.py), so that the same
    network had other names each time it is built. The constant initializer leaves the process's
    random state as it is; the values come after.
    """

    def named(leaf: str) -> paddle.ParamAttr:
        zero = paddle.nn.initializer.Constant(0.0)
        return paddle.ParamAttr(name=f"{node.name}.{leaf}", initializer=zero)

    has_bias = node.constant(2) is not None
    return {"weight_attr": named("weight"), "bias_attr": named("bias") if has_bias else False}


def _filled(layer: paddle.nn.Layer, weight: npt.NDArray[np.generic], node: Node) -> paddle.nn.Layer:
    layer.to(dtype=str(weight.dtype))
    layer.weight.set_value(np.ascontiguousarray(weight))
    bias = node.constant(2)
    if bias is not None:
        # Gemm may add one number to all outputs.
        layer.bias.set_value(np.array(np.broadcast_to(bias.reshape(-1), layer.bias.shape)))
    return layer


def _padding(node: Node) -> list[int]:
    """Paddle's order: top, bottom, left, right; one number a side where both sides are equal."""
    top, left, bottom, right = node.pads()
    return [top, left] if (top, left) == (bottom, right) else [top, bottom, left, right]


# Everything else: plain functions.


def _binary(function: Call) -> Callable[[Node], Call]:
    def build(node: Node) -> Call:
        weave = node.operands(to_tensor)
        return lambda *computed: function(*weave(*computed))

    return build


def _unary(function: Call) -> Callable[[Node], Call]:
    return lambda node: function


def _avg_pool(node: Node) -> Call:
    kernel, strides, padding = node.pair("kernel_shape"), node.pair("strides"), _padding(node)
    if len(padding) != 2:
        # Paddle takes four numbers, and divides by the wrong count at the two far sides.
        raise node.refused("needs equal padding on both sides")
    ceil = bool(node.attributes.get("ceil_mode", 0))
    exclusive = not node.attributes.get("count_include_pad", 0)
    return lambda x: F.avg_pool2d(x, kernel, strides, padding, ceil, exclusive)


def _concat(node: Node) -> Call:
    weave = node.operands(to_tensor)
    axis = int(node.attributes["axis"])
    return lambda *computed: paddle.concat(weave(*computed), axis=axis)


def _resize(node: Node) -> Call:
    scales = list(node.nearest_scales())
    # With a size instead, Paddle would recompute the factors and sample elsewhere.
    return lambda x: F.interpolate(x, scale_factor=scales, mode="nearest")


def _integers(node: Node, position: int) -> list[int]:
    values = node.constant(position)
    if values is None:
        raise node.refused(f"needs constant input {position}")
    return [int(v) for v in values.reshape(-1)]


def _reshape(node: Node) -> Call:
    shape = _integers(node, 1)
    return lambda x: x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(shape)])


def _transpose(node: Node) -> Call:
    order = node.attributes.get("perm")
    return lambda x: x.transpose(list(order or reversed(range(x.ndim))))


def _slice(node: Node) -> Call:
    starts, ends = _integers(node, 1), _integers(node, 2)
    axes = _integers(node, 3) if node.constant(3) is not None else list(range(len(starts)))
    steps = _integers(node, 4) if node.constant(4) is not None else [1] * len(starts)
    if min(steps) < 1:
        raise node.refused("negative steps are not supported")

    def cut(x: Tensor) -> Tensor:
        where = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            # ONNX writes "to the end" as the largest int64, which Paddle's int32 cannot hold.
            where[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))
        return x[tuple(where)]

    return cut


def _split(node: Node) -> Call:
    axis = int(node.attributes.get("axis", 0))
    sizes = _integers(node, 1) if node.constant(1) is not None else None
    parts = len(node.outputs)

    def split(x: Tensor) -> Any:
        if sizes:
            return paddle.split(x, sizes, axis=axis)
        # Without sizes the last part may be the smaller one.
        size, length = -(-x.shape[axis] // parts), x.shape[axis]
        return paddle.split(x, [size] * (parts - 1) + [length - size * (parts - 1)], axis=axis)

    return split


def _clip(node: Node) -> Call:
    low, high = node.constant(1), node.constant(2)
    ends = [None if end is None else float(end.item()) for end in (low, high)]
    return lambda x: paddle.clip(x, *ends)


def _leaky_relu(node: Node) -> Call:
    slope = float(node.attributes.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


def _hard_sigmoid(node: Node) -> Call:
    alpha = float(node.attributes.get("alpha", 0.2))
    beta = float(node.attributes.get("beta", 0.5))
    return lambda x: F.hardsigmoid(x, alpha, beta)


def _softmax(node: Node) -> Call:
    axis = int(node.attributes.get("axis", -1))
    return lambda x: F.softmax(x, axis=axis)


def _flatten(node: Node) -> Call:
    axis = int(node.attributes.get("axis", 1))
    return lambda x: x.reshape([int(np.prod(x.shape[:axis])), -1])


FUNCTIONS: dict[str, Callable[[Node], Call]] = {
    "Add": _binary(paddle.add),
    "AveragePool": _avg_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _binary(paddle.divide),
    "Exp": _unary(paddle.exp),
    "Flatten": _flatten,
    "GlobalAveragePool": _unary(lambda x: x.mean(axis=[2, 3], keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "MatMul": _binary(paddle.matmul),
    "Mul": _binary(paddle.multiply),
    "Pow": _binary(paddle.pow),
    "Relu": _unary(F.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _unary(F.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sub": _binary(paddle.subtract),
    "Tanh": _unary(paddle.tanh),
    "Transpose": _transpose,
}
