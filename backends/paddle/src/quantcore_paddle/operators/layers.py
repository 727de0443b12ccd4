"""Nodes that become Paddle's own layers, so that its PTQ recognises them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from quantcore.contracts.nodes import Node
from quantcore_paddle.operators.common import padding_of


def conv(node: Node) -> paddle.nn.Layer:
    """Conv as Conv2D."""
    weight = _weight(node, 4)
    groups = int(node.attributes.get("group", 1))
    layer = paddle.nn.Conv2D(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        stride=node.pair("strides"),
        padding=padding_of(node),
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
        padding=padding_of(node),
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
    geometry = (node.pair("kernel_shape"), node.pair("strides"), padding_of(node))
    if node.attributes.get("ceil_mode", 0):
        return _CeilMaxPool2D(node, *geometry, ceil_mode=True)
    return paddle.nn.MaxPool2D(*geometry)


class _CeilMaxPool2D(paddle.nn.MaxPool2D):  # type: ignore[misc]
    """Without the windows that begin in the padding behind the picture, which Paddle adds."""

    def __init__(self, node: Node, *geometry: Any, **more: Any) -> None:
        super().__init__(*geometry, **more)
        self._begins = node.begins

    def forward(self, x: Any) -> Any:
        """The largest of each window."""
        rows, columns = self._begins(*x.shape[2:])
        return super().forward(x)[:, :, rows, columns]


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
