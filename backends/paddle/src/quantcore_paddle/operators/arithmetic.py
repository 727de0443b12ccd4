"""Element by element: activations, arithmetic, comparisons, products of activations."""

from __future__ import annotations

import functools
from typing import Any

import onnx
import paddle
from paddle.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore_paddle.operators.common import Builder, Call, Tensor, plain, to_tensor, told


def _whole(x: Tensor) -> bool:
    return not x.is_floating_point()


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """A quotient; of whole numbers cut towards zero, as in ONNX, where Paddle rounds down."""
    if _whole(x):
        return paddle.sign(x) * paddle.sign(y) * (paddle.abs(x) // paddle.abs(y))
    return paddle.divide(x, y)


def _mod(x: Tensor, y: Tensor, fmod: int) -> Tensor:
    """A remainder with the sign of the divisor, or of the dividend with `fmod`."""
    if fmod:
        return paddle.sign(x) * paddle.mod(paddle.abs(x), paddle.abs(y))
    return paddle.mod(x, y)


def _gelu(x: Tensor, approximate: str) -> Tensor:
    return F.gelu(x, approximate=approximate == "tanh")


def _gemm(
    x: Tensor, y: Tensor, z: Tensor | None = None, *, alpha: float, beta: float, **turned: int
) -> Tensor:
    """A product of two matrices, neither of them a layer's weight."""
    product = alpha * paddle.matmul(x, y, bool(turned["transA"]), bool(turned["transB"]))
    return product if z is None else product + beta * z


def _leaky_relu(node: Node) -> Call:
    slope = float(node.attributes.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


def _hard_sigmoid(node: Node) -> Call:
    alpha = float(node.attributes.get("alpha", 0.2))
    beta = float(node.attributes.get("beta", 0.5))
    return lambda x: F.hardsigmoid(x, alpha, beta)


def _clip(node: Node) -> Call:
    low, high = node.constant(1), node.constant(2)
    ends = [None if end is None else float(end.item()) for end in (low, high)]
    return lambda x: paddle.clip(x, *ends)


def _cast(node: Node) -> Call:
    kind = int(node.attributes["to"])
    types: dict[int, Any] = {
        onnx.TensorProto.FLOAT: node.arithmetic,
        onnx.TensorProto.DOUBLE: "float64",
        onnx.TensorProto.INT32: "int32",
        onnx.TensorProto.INT64: "int64",
        onnx.TensorProto.BOOL: "bool",
    }
    if kind not in types:
        name = onnx.TensorProto.DataType.Name(kind)
        raise node.refused(f"a cast to {name} is not supported; export the model in float32")
    return lambda x: x.astype(types[kind])


def _einsum(node: Node) -> Call:
    equation = str(node.attributes["equation"])
    weave = node.operands(to_tensor)
    return lambda *computed: paddle.einsum(equation, *weave(*computed))


def _fold(function: Call) -> Builder:
    """An operator of any number of inputs from a function of two."""
    return plain(lambda *values: functools.reduce(function, values))


def _elu(x: Tensor, alpha: float) -> Tensor:
    return paddle.where(x > 0, x, alpha * paddle.expm1(x))


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return paddle.where(x < 0, slope * x, x)


def _softplus(x: Tensor) -> Tensor:
    # Not Paddle's own, which is the identity above its threshold.
    return F.relu(x) + paddle.log1p(paddle.exp(-paddle.abs(x)))


def _mean(*values: Any) -> Any:
    return functools.reduce(paddle.add, values) / len(values)


FUNCTIONS: dict[str, Builder] = {
    "Abs": plain(paddle.abs),
    "Add": plain(paddle.add),
    "And": plain(paddle.logical_and),
    "Cast": _cast,
    "Ceil": plain(paddle.ceil),
    "Clip": _clip,
    "Cos": plain(paddle.cos),
    "Div": plain(_divide),
    "Einsum": _einsum,
    "Elu": told(_elu, alpha=1.0),
    "Equal": plain(paddle.equal),
    "Erf": plain(paddle.erf),
    "Exp": plain(paddle.exp),
    "Floor": plain(paddle.floor),
    "Gelu": told(_gelu, approximate="none"),
    "Gemm": told(_gemm, alpha=1.0, beta=1.0, transA=0, transB=0),
    "Greater": plain(paddle.greater_than),
    "GreaterOrEqual": plain(paddle.greater_equal),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": plain(F.hardswish),
    "Identity": plain(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "Less": plain(paddle.less_than),
    "LessOrEqual": plain(paddle.less_equal),
    "Log": plain(paddle.log),
    "MatMul": plain(paddle.matmul),
    "Max": _fold(paddle.maximum),
    "Mean": plain(_mean),
    "Min": _fold(paddle.minimum),
    "Mish": plain(lambda x: x * paddle.tanh(_softplus(x))),
    "Mod": told(_mod, fmod=0),
    "Mul": plain(paddle.multiply),
    "Neg": plain(paddle.neg),
    "Not": plain(paddle.logical_not),
    "Or": plain(paddle.logical_or),
    "PRelu": plain(_prelu),
    "Pow": plain(paddle.pow),
    "Reciprocal": plain(paddle.reciprocal),
    "Relu": plain(F.relu),
    "Round": plain(paddle.round),
    "Sigmoid": plain(F.sigmoid),
    "Sign": plain(paddle.sign),
    "Sin": plain(paddle.sin),
    "Softplus": plain(_softplus),
    "Sqrt": plain(paddle.sqrt),
    "Sub": plain(paddle.subtract),
    "Sum": _fold(paddle.add),
    "Tanh": plain(paddle.tanh),
    "Where": plain(paddle.where),
}
