"""Layers with weights: the toolkit's own quantized modules, so that weights are quantized by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_quantization import nn as quant_nn
from torch import Tensor

from quantcore.contracts.nodes import Node
from quantcore_pytorch_quantization.convolution import Conv2d
from quantcore_pytorch_quantization.operators.common import Call, padding_of, to_tensor


def conv(node: Node) -> tuple[torch.nn.Module, Call]:
    """Conv as the toolkit's QuantConv2d; asymmetric padding goes in front."""
    weight = _weight(node, 4)
    groups = int(node.attributes.get("group", 1))
    before, padding = padding_of(node, 0.0)
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
