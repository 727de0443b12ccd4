"""One torch callable for each node of the float graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_quantization import nn as quant_nn
from torch import Tensor
from torch.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore_pytorch_quantization.convolution import Conv2d

Call = Callable[..., Any]


def to_tensor(values: npt.NDArray[np.generic]) -> Tensor:
    """A tensor of its own memory: the float model's constants are read-only and stay untouched."""
    return torch.tensor(np.asarray(values))


# Layers with weights: the toolkit's own quantized modules, so that weights are quantized by it.


def conv(node: Node) -> tuple[torch.nn.Module, Call]:
    """Conv as the toolkit's QuantConv2d; asymmetric padding goes in front."""
    weight = _weight(node, 4)
    groups = int(node.attributes.get("group", 1))
    before, padding = _padding(node, 0.0)
    module = Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=node.pair("strides"),
        padding=padding,
        dilation=node.pair("dilations"),
        groups=groups,
        bias=node.constant(2) is not None,
    )
    return _filled(module, weight, node), lambda x: module(before(x))


def conv_transpose(node: Node) -> tuple[torch.nn.Module, Call]:
    """ConvTranspose as QuantConvTranspose2d."""
    weight = _weight(node, 4)
    groups = int(node.attributes.get("group", 1))
    top, left, bottom, right = node.pads()
    if (top, left) != (bottom, right) or "output_shape" in node.attributes:
        raise node.refused("needs equal padding on both sides and no output_shape")
    module = quant_nn.QuantConvTranspose2d(
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        stride=node.pair("strides"),
        padding=(top, left),
        output_padding=node.pair("output_padding", 0),
        dilation=node.pair("dilations"),
        groups=groups,
        bias=node.constant(2) is not None,
    )
    return _filled(module, weight, node), module


def linear(node: Node) -> tuple[torch.nn.Module, Call]:
    """Gemm or MatMul as QuantLinear, whose weight is outputs x inputs."""
    weight = _weight(node, 2)
    scaled = any(node.attributes.get(k, 1.0) != 1.0 for k in ("alpha", "beta"))
    if scaled or node.attributes.get("transA", 0):
        raise node.refused("needs alpha = beta = 1 and no transA")
    if not node.attributes.get("transB", 0):
        weight = weight.T.contiguous()
    module = quant_nn.QuantLinear(
        weight.shape[1], weight.shape[0], bias=node.constant(2) is not None
    )
    return _filled(module, weight, node), module


WEIGHTED: dict[str, Callable[[Node], tuple[torch.nn.Module, Call]]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": linear,
    "MatMul": linear,
}


def _weight(node: Node, rank: int) -> Tensor:
    weight = node.constant(1)
    if weight is None or weight.ndim != rank:
        raise node.refused(f"needs a constant weight of rank {rank}")
    return to_tensor(weight)


def _filled(module: Any, weight: Tensor, node: Node) -> torch.nn.Module:
    """The module with the node's weights, both quantizers off until a plan asks for them."""
    module.weight.data = weight
    bias = node.constant(2)
    if bias is not None:
        module.bias.data = to_tensor(bias).reshape(-1)
    module.input_quantizer.disable()
    module.weight_quantizer.disable()
    filled: torch.nn.Module = module
    return filled


def _padding(node: Node, value: float) -> tuple[Call, tuple[int, int]]:
    """(what to do before the op, padding that the op does itself)."""
    top, left, bottom, right = node.pads()
    if (top, left) == (bottom, right):
        return lambda x: x, (top, left)
    return lambda x: F.pad(x, (left, right, top, bottom), value=value), (0, 0)


# Everything else: plain functions.


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node, torch.device], Call]:
    def build(node: Node, device: torch.device) -> Call:
        weave = node.operands(lambda c: to_tensor(c).to(device))
        return lambda *computed: function(*weave(*computed))

    return build


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Node, torch.device], Call]:
    return lambda node, device: function


def _max_pool(node: Node, device: torch.device) -> Call:
    before, padding = _padding(node, float("-inf"))
    kernel, strides = node.pair("kernel_shape"), node.pair("strides")
    dilations, ceil = node.pair("dilations"), bool(node.attributes.get("ceil_mode", 0))
    return lambda x: F.max_pool2d(before(x), kernel, strides, padding, dilations, ceil)


def _avg_pool(node: Node, device: torch.device) -> Call:
    top, left, bottom, right = node.pads()
    if (top, left) != (bottom, right):
        raise node.refused("needs equal padding on both sides")
    kernel, strides = node.pair("kernel_shape"), node.pair("strides")
    ceil = bool(node.attributes.get("ceil_mode", 0))
    count = bool(node.attributes.get("count_include_pad", 0))
    return lambda x: F.avg_pool2d(x, kernel, strides, (top, left), ceil, count)


def _concat(node: Node, device: torch.device) -> Call:
    weave = node.operands(lambda c: to_tensor(c).to(device))
    axis = int(node.attributes["axis"])
    return lambda *computed: torch.cat(weave(*computed), dim=axis)


def _resize(node: Node, device: torch.device) -> Call:
    scales = node.nearest_scales()
    # With a size instead, torch would recompute the factors and sample elsewhere.
    return lambda x: F.interpolate(
        x, scale_factor=scales, mode="nearest", recompute_scale_factor=False
    )


def _integers(node: Node, position: int) -> list[int]:
    values = node.constant(position)
    if values is None:
        raise node.refused(f"needs constant input {position}")
    return [int(v) for v in values.reshape(-1)]


def _reshape(node: Node, device: torch.device) -> Call:
    shape = _integers(node, 1)
    return lambda x: x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(shape)])


def _transpose(node: Node, device: torch.device) -> Call:
    order = node.attributes.get("perm")
    return lambda x: x.permute(*(order or reversed(range(x.ndim))))


def _slice(node: Node, device: torch.device) -> Call:
    starts, ends = _integers(node, 1), _integers(node, 2)
    axes = _integers(node, 3) if node.constant(3) is not None else list(range(len(starts)))
    steps = _integers(node, 4) if node.constant(4) is not None else [1] * len(starts)
    if min(steps) < 1:
        raise node.refused("negative steps are not supported")

    def cut(x: Tensor) -> Tensor:
        where = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            where[axis] = slice(start, end, step)
        return x[tuple(where)]

    return cut


def _split(node: Node, device: torch.device) -> Call:
    axis = int(node.attributes.get("axis", 0))
    sizes = _integers(node, 1) if node.constant(1) is not None else None
    parts = len(node.outputs)
    return lambda x: torch.split(x, sizes or -(-x.shape[axis] // parts), dim=axis)


def _clip(node: Node, device: torch.device) -> Call:
    low, high = node.constant(1), node.constant(2)
    ends = [None if end is None else float(end.item()) for end in (low, high)]
    return lambda x: torch.clamp(x, *ends)


def _leaky_relu(node: Node, device: torch.device) -> Call:
    slope = float(node.attributes.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


def _hard_sigmoid(node: Node, device: torch.device) -> Call:
    alpha = float(node.attributes.get("alpha", 0.2))
    beta = float(node.attributes.get("beta", 0.5))
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


def _softmax(node: Node, device: torch.device) -> Call:
    axis = int(node.attributes.get("axis", -1))
    return lambda x: torch.softmax(x, dim=axis)


def _flatten(node: Node, device: torch.device) -> Call:
    axis = int(node.attributes.get("axis", 1))
    return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


FUNCTIONS: dict[str, Callable[[Node, torch.device], Call]] = {
    "Add": _binary(torch.add),
    "AveragePool": _avg_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _binary(torch.div),
    "Exp": _unary(torch.exp),
    "Flatten": _flatten,
    "GlobalAveragePool": _unary(lambda x: x.mean(dim=(2, 3), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(torch.mul),
    "Pow": _binary(torch.pow),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sub": _binary(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Transpose": _transpose,
}
