"""Element by element: activations, arithmetic, comparisons, products of activations."""

from __future__ import annotations

import functools
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore_pytorch_quantization.operators.common import Builder, Call, plain, to_tensor, told


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """A quotient; of whole numbers cut towards zero, as in ONNX."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


def _mod(x: Tensor, y: Tensor, fmod: int) -> Tensor:
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return F.gelu(x, approximate=approximate)


def _gemm(
    x: Tensor, y: Tensor, z: Tensor | None = None, *, alpha: float, beta: float, **turned: int
) -> Tensor:
    """A product of two matrices, neither of them a layer's weight."""
    x = x.T if turned["transA"] else x
    y = y.T if turned["transB"] else y
    product = alpha * (x @ y)
    return product if z is None else product + beta * z


def _leaky_relu(node: Node, device: torch.device) -> Call:
    slope = float(node.attributes.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


def _clip(node: Node, device: torch.device) -> Call:
    low, high = node.constant(1), node.constant(2)
    ends = [None if end is None else float(end.item()) for end in (low, high)]
    return lambda x: torch.clamp(x, *ends)


def _cast(node: Node, device: torch.device) -> Call:
    kind = int(node.attributes["to"])
    types: dict[int, Any] = {
        onnx.TensorProto.FLOAT: getattr(torch, node.arithmetic),
        onnx.TensorProto.DOUBLE: torch.float64,
        onnx.TensorProto.INT32: torch.int32,
        onnx.TensorProto.INT64: torch.int64,
        onnx.TensorProto.BOOL: torch.bool,
    }
    if kind not in types:
        name = onnx.TensorProto.DataType.Name(kind)
        raise node.refused(f"a cast to {name} is not supported; export the model in float32")
    return lambda x: x.to(types[kind])


def _einsum(node: Node, device: torch.device) -> Call:
    equation = str(node.attributes["equation"])
    weave = node.operands(lambda c: to_tensor(c).to(device))
    return lambda *computed: torch.einsum(equation, *weave(*computed))


def _fold(function: Call) -> Builder:
    """An operator of any number of inputs from a function of two."""
    return plain(lambda *values: functools.reduce(function, values))


def _elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


def _mean(*values: Any) -> Any:
    return functools.reduce(torch.add, values) / len(values)


FUNCTIONS: dict[str, Builder] = {
    "Abs": plain(torch.abs),
    "Add": plain(torch.add),
    "And": plain(torch.logical_and),
    "Cast": _cast,
    "Ceil": plain(torch.ceil),
    "Clip": _clip,
    "Cos": plain(torch.cos),
    "Div": plain(_divide),
    "Einsum": _einsum,
    "Elu": told(_elu, alpha=1.0),
    "Equal": plain(torch.eq),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Floor": plain(torch.floor),
    "Gelu": told(_gelu, approximate="none"),
    "Gemm": told(_gemm, alpha=1.0, beta=1.0, transA=0, transB=0),
    "Greater": plain(torch.gt),
    "GreaterOrEqual": plain(torch.ge),
    "HardSigmoid": told(_hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": plain(F.hardswish),
    "Identity": plain(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "Less": plain(torch.lt),
    "LessOrEqual": plain(torch.le),
    "Log": plain(torch.log),
    "MatMul": plain(torch.matmul),
    "Max": _fold(torch.maximum),
    "Mean": plain(_mean),
    "Min": _fold(torch.minimum),
    "Mish": plain(lambda x: x * torch.tanh(_softplus(x))),
    "Mod": told(_mod, fmod=0),
    "Mul": plain(torch.mul),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Or": plain(torch.logical_or),
    "PRelu": plain(_prelu),
    "Pow": plain(torch.pow),
    "Reciprocal": plain(torch.reciprocal),
    "Relu": plain(torch.relu),
    "Round": plain(torch.round),
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Softplus": plain(_softplus),
    "Sqrt": plain(torch.sqrt),
    "Sub": plain(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": plain(torch.tanh),
    "Where": plain(torch.where),
}
