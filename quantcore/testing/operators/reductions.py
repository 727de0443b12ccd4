"""Reductions, normalisations, sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantcore.testing.operators.case import Case, Pick, computed, int64

#: The opset since which the axes of a reduction are an input.
_SINCE = {"ReduceSum": 13}


def _reduce(op: str) -> Callable[[Pick], Case]:
    def draw(pick: Pick) -> Case:
        x = pick.floats(pick.sides())
        opset = pick.one((11, 13, 18))
        told: dict[str, Any] = {"keepdims": pick.whole(0, 1)}
        axes = pick.axes(x.ndim) if pick.maybe() else None
        inputs: tuple[Any, ...] = (computed(x),)
        if opset >= _SINCE.get(op, 18):
            told["noop_with_empty_axes"] = pick.whole(0, 1)
            if axes is not None:
                inputs = (computed(x), int64(axes))
        elif axes is not None:
            told["axes"] = axes
        return Case(op, inputs, told, opset)

    return draw


def _extreme(op: str) -> Callable[[Pick], Case]:
    def draw(pick: Pick) -> Case:
        x = pick.floats(pick.sides())
        told = {"axis": pick.axis(x.ndim), "keepdims": pick.whole(0, 1)}
        return Case(op, (computed(x),), told, 13)

    return draw


def _softmax(op: str) -> Callable[[Pick], Case]:
    def draw(pick: Pick) -> Case:
        x = pick.floats(pick.sides(2))
        told = {"axis": pick.axis(x.ndim)} if pick.maybe() else {}
        return Case(op, (computed(x),), told, pick.one((11, 12, 13)))

    return draw


def _layer_norm(pick: Pick) -> Case:
    x = pick.floats((*pick.sides(1, 3), 4))
    axis = pick.axis(x.ndim)
    shape = x.shape[axis:]
    told: dict[str, Any] = {"axis": axis}
    if pick.maybe():
        told["epsilon"] = 1e-3
    bias = (pick.given(pick.floats(shape)),) if pick.maybe() else ()
    return Case("LayerNormalization", (computed(x), pick.given(pick.floats(shape)), *bias), told)


def _instance_norm(pick: Pick) -> Case:
    x = pick.floats((pick.whole(1, 2), pick.whole(1, 4), 3, pick.whole(2, 5)))
    rest = (pick.floats(x.shape[1:2]), pick.floats(x.shape[1:2]))
    told = {"epsilon": 1e-3} if pick.maybe() else {}
    return Case("InstanceNormalization", (computed(x), *rest), told)


def _group_norm(pick: Pick) -> Case:
    groups, each = pick.whole(1, 3), pick.whole(1, 3)
    x = pick.floats((pick.whole(1, 2), groups * each, 3, pick.whole(2, 4)))
    opset = pick.one((18, 21))
    numbers = groups if opset == 18 else groups * each
    rest = (pick.floats((numbers,)), pick.floats((numbers,)))
    return Case("GroupNormalization", (computed(x), *rest), {"num_groups": groups}, opset)


def _lp_norm(pick: Pick) -> Case:
    x = pick.floats(pick.sides(), 0.5, 3)
    told = {"axis": pick.axis(x.ndim), "p": pick.whole(1, 2)}
    return Case("LpNormalization", (computed(x),), told)


def _top_k(pick: Pick) -> Case:
    x = pick.floats(pick.sides())
    axis = pick.axis(x.ndim)
    count = int64([pick.whole(1, x.shape[axis])])
    told = {"axis": axis, "largest": pick.whole(0, 1)}
    return Case("TopK", (computed(x), count), told, 11, outputs=2)


_REDUCTIONS = ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

CASES: dict[str, Callable[[Pick], Case]] = {
    **{f"Reduce{kind}": _reduce(f"Reduce{kind}") for kind in _REDUCTIONS},
    "ArgMax": _extreme("ArgMax"),
    "ArgMin": _extreme("ArgMin"),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax("LogSoftmax"),
    "LpNormalization": _lp_norm,
    "Softmax": _softmax("Softmax"),
    "TopK": _top_k,
}
