"""Element by element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from quantcore.testing.operators.case import Case, Pick, computed


def _one(op: str, opset: int = 13, low: float = -3, high: float = 3) -> Callable[[Pick], Case]:
    return lambda pick: Case(op, (computed(pick.floats(pick.sides(), low, high)),), {}, opset)


def _two(op: str, low: float = -3, high: float = 3, opset: int = 13) -> Callable[[Pick], Case]:
    """Two that broadcast, one of them constant or none."""

    def draw(pick: Pick) -> Case:
        shape, other = _broadcast(pick)
        values = (pick.floats(shape, low, high), pick.floats(other, low, high))
        if pick.maybe():
            return Case(op, (computed(values[0]), pick.given(values[1])), {}, opset)
        return Case(op, (pick.given(values[0]), computed(values[1])), {}, opset)

    return draw


def _broadcast(pick: Pick) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and another that is the end of it with some sides 1."""
    shape = pick.sides()
    other = tuple(1 if pick.maybe() else side for side in shape[pick.whole(0, len(shape)) :])
    return (shape, other) if pick.maybe() or not other else (other, shape)


def _many(op: str) -> Callable[[Pick], Case]:
    def draw(pick: Pick) -> Case:
        shape = pick.sides()
        rest = [pick.given(pick.floats(shape)) for _ in range(pick.whole(0, 2))]
        return Case(op, (computed(pick.floats(shape)), *rest), {}, 13)

    return draw


def _logical(op: str) -> Callable[[Pick], Case]:
    def draw(pick: Pick) -> Case:
        shape, other = _broadcast(pick)
        masks = (pick.wholes(shape, 0, 1) > 0, pick.wholes(other, 0, 1) > 0)
        return Case(op, (computed(masks[0]), pick.given(masks[1])), {}, 13)

    return draw


def _not(pick: Pick) -> Case:
    return Case("Not", (computed(pick.wholes(pick.sides(), 0, 1) > 0),), {}, 13)


def _where(pick: Pick) -> Case:
    shape, other = _broadcast(pick)
    mask = pick.wholes(shape, 0, 1) > 0
    inputs = (pick.given(mask), computed(pick.floats(other)), pick.given(pick.floats(shape)))
    return Case("Where", inputs, {}, 16)


def _divide(pick: Pick) -> Case:
    if pick.maybe():
        return _two("Div", 0.5, 3)(pick)
    shape = pick.sides()
    below = pick.wholes(shape, 1, 4) * pick.one((1, -1))
    return Case("Div", (computed(pick.wholes(shape, -20, 20)), pick.given(below)), {}, 14)


def _mod(pick: Pick) -> Case:
    shape = pick.sides()
    if pick.maybe():
        values = np.round(pick.floats(shape, -9, 9) * 4) / 4  # what both count exactly
        below = np.full(shape, pick.one((1.25, 2.0, -1.5)), np.float32)
        return Case("Mod", (computed(values), pick.given(below)), {"fmod": 1}, 13)
    below = pick.wholes(shape, 1, 4) * pick.one((1, -1))
    inputs = (computed(pick.wholes(shape, -20, 20)), pick.given(below))
    return Case("Mod", inputs, {"fmod": pick.whole(0, 1)}, 13)


def _power(pick: Pick) -> Case:
    shape, other = _broadcast(pick)
    if pick.maybe():
        values = (pick.floats(shape), np.full(other, pick.one((2.0, 3.0, 0.0)), np.float32))
    else:
        values = (pick.floats(shape, 0.1, 3), pick.floats(other))
    return Case("Pow", (computed(values[0]), pick.given(values[1])), {}, 15)


def _clip(pick: Pick) -> Case:
    low, high = np.array(-0.5, np.float32), np.array(1.25, np.float32)
    ends = pick.one(((low, high), (None, high), (low,), (low, None)))
    if ends[-1] is None:
        ends = ends[:-1]
    return Case("Clip", (computed(pick.floats(pick.sides())), *ends), {}, pick.one((11, 13)))


def _cast(pick: Pick) -> Case:
    shape = pick.sides()
    to = pick.one((TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL))
    values = pick.one((pick.floats(shape), pick.wholes(shape, -3, 3), pick.wholes(shape, 0, 1) > 0))
    return Case("Cast", (computed(values),), {"to": int(to)}, 13)


def _einsum(pick: Pick) -> Case:
    b, i, j, k = (pick.whole(1, 4) for _ in range(4))
    equation, first, second = pick.one(
        (
            ("bij,bjk->bik", (b, i, j), (b, j, k)),
            ("bchw,bkc->bkhw", (b, i, j, k), (b, 3, i)),
            ("ij,jk", (i, j), (j, k)),
            ("bij,bij->b", (b, i, j), (b, i, j)),
        )
    )
    inputs = (computed(pick.floats(first)), pick.given(pick.floats(second)))
    return Case("Einsum", inputs, {"equation": equation}, 13)


def _slope(op: str, opset: int = 13) -> Callable[[Pick], Case]:
    def draw(pick: Pick) -> Case:
        told = {"alpha": pick.one((0.01, 0.125, 1.5))} if pick.maybe() else {}
        return Case(op, (computed(pick.floats(pick.sides())),), told, opset)

    return draw


def _hard_sigmoid(pick: Pick) -> Case:
    told = pick.one(({}, {"alpha": 1 / 6}, {"alpha": 0.3, "beta": 0.4}))
    return Case("HardSigmoid", (computed(pick.floats(pick.sides())),), told, 13)


def _prelu(pick: Pick) -> Case:
    channels = pick.whole(1, 4)
    x = pick.floats((pick.whole(1, 2), channels, pick.whole(1, 4), pick.whole(1, 4)))
    slope = pick.floats(pick.one(((channels, 1, 1), (1, 1, 1), (1,))))
    return Case("PRelu", (computed(x), pick.given(slope)), {}, 16)


def _gelu(pick: Pick) -> Case:
    told = pick.one(({}, {"approximate": "none"}, {"approximate": "tanh"}))
    return Case("Gelu", (computed(pick.floats(pick.sides())),), told, 20)


def _compare(op: str) -> Callable[[Pick], Case]:
    """Of numbers that are equal here and there."""

    def draw(pick: Pick) -> Case:
        shape, other = _broadcast(pick)
        first, second = pick.wholes(shape, -1, 1), pick.wholes(other, -1, 1)
        if pick.maybe():
            first, second = first.astype(np.float32), second.astype(np.float32)
        return Case(op, (computed(first), pick.given(second)), {}, 16)

    return draw


_ONE = ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Relu", "Round")
_ALSO = ("Sigmoid", "Sign", "Sin", "Softplus", "Tanh")

CASES: dict[str, Callable[[Pick], Case]] = {
    **{op: _one(op) for op in (*_ONE, *_ALSO)},
    **{op: _two(op) for op in ("Add", "Mul", "Sub")},
    **{op: _many(op) for op in ("Max", "Mean", "Min", "Sum")},
    **{op: _compare(op) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")},
    **{op: _logical(op) for op in ("And", "Or")},
    "Cast": _cast,
    "Clip": _clip,
    "Div": _divide,
    "Einsum": _einsum,
    "Elu": _slope("Elu"),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one("HardSwish", 14, -5, 5),
    "LeakyRelu": _slope("LeakyRelu", 16),
    "Log": _one("Log", low=0.05),
    "Mish": _one("Mish", 18, -30, 30),
    "Mod": _mod,
    "Not": _not,
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _one("Reciprocal", low=0.25),
    "Sqrt": _one("Sqrt", low=0),
    "Where": _where,
}
