"""Shapes, slices, gathering, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quantcore.testing.operators.case import Case, Pick, Values, computed, int64


def _values(pick: Pick, low: int = 1) -> Values:
    """Floats, or whole numbers, as indices are moved about too."""
    shape = pick.sides(low)
    return pick.floats(shape) if pick.maybe() else pick.wholes(shape, -9, 9)


def _concat(pick: Pick) -> Case:
    x = pick.floats(pick.sides())
    axis = pick.axis(x.ndim)
    rest = []
    for _ in range(pick.whole(0, 2)):
        shape = list(x.shape)
        shape[axis] = pick.whole(1, 3)
        rest.append(pick.given(pick.floats(shape)))
    return Case("Concat", (computed(x), *rest), {"axis": axis}, 13)


def _reshape(pick: Pick) -> Case:
    x = _values(pick, 2)
    shapes = [[-1], [0, -1], [*x.shape[::-1]], [1, *x.shape], [0, 1, -1]]
    return Case("Reshape", (computed(x), pick.given(int64(pick.one(shapes)))), {}, 13)


def _transpose(pick: Pick) -> Case:
    x = _values(pick)
    order = [int(a) for a in np.random.default_rng(pick.whole(0, 99)).permutation(x.ndim)]
    return Case("Transpose", (computed(x),), {"perm": order} if pick.maybe() else {}, 13)


def _slice(pick: Pick) -> Case:
    x = _values(pick)
    axes = pick.axes(x.ndim)
    if pick.maybe():
        axes = list(range(len(axes)))
    starts, ends, steps = [], [], []
    for axis in axes:
        side = x.shape[axis]
        start = pick.whole(0, side - 1)
        starts.append(start - side if pick.maybe() else start)
        ends.append(pick.one((2**63 - 1, side, start + 1)))
        steps.append(pick.whole(1, 3))
    rest: tuple[Any, ...] = (int64(axes), int64(steps))
    if axes == list(range(len(axes))) and pick.maybe():
        rest, steps = (), [1] * len(axes)
    return Case("Slice", (computed(x), int64(starts), int64(ends), *rest), {}, pick.one((11, 13)))


def _split(pick: Pick) -> Case:
    x = _values(pick)
    axis = pick.axis(x.ndim)
    sizes = [pick.whole(1, 3) for _ in range(pick.whole(1, 3))]
    shape = list(x.shape)
    shape[axis] = sum(sizes)
    inputs: tuple[Any, ...] = (computed(pick.floats(shape)),)
    told: dict[str, Any] = {"axis": axis}
    opset = pick.one((11, 13, 18))
    if opset >= 18 and pick.maybe():
        told["num_outputs"] = len(sizes)
        shape[axis] = len(sizes) * pick.whole(2, 3) - (1 if len(sizes) > 1 else 0)
        inputs = (computed(pick.floats(shape)),)
    elif opset == 11:
        told["split"] = sizes
    else:
        inputs = (*inputs, int64(sizes))
    return Case("Split", inputs, told, opset, outputs=len(sizes))


def _flatten(pick: Pick) -> Case:
    x = _values(pick)
    return Case("Flatten", (computed(x),), {"axis": pick.whole(-x.ndim, x.ndim)}, 13)


def _by_axes(op: str, x: Values, axes: list[int], pick: Pick) -> Case:
    if pick.maybe():
        return Case(op, (computed(x),), {"axes": axes}, 11)
    return Case(op, (computed(x), int64(axes)), {}, 13)


def _squeeze(pick: Pick) -> Case:
    x = _values(pick)
    axes = pick.axes(x.ndim)
    shape = list(x.shape)
    for axis in axes:
        shape[axis] = 1
    values = pick.floats(shape)
    if pick.maybe() and min(shape) == 1 and len(shape) > shape.count(1):
        return Case("Squeeze", (computed(values),), {}, 13)
    return _by_axes("Squeeze", values, axes, pick)


def _unsqueeze(pick: Pick) -> Case:
    x = pick.floats(pick.sides(1, 3))
    new = pick.axes(x.ndim + 1)[:1] if pick.maybe() else [0, -1]
    return _by_axes("Unsqueeze", x, new, pick)


def _expand(pick: Pick) -> Case:
    shape = pick.sides()
    x = pick.floats(
        [1 if pick.maybe() else side for side in shape[pick.whole(0, len(shape) - 1) :]]
    )
    wanted = [1 if pick.maybe() else side for side in shape]
    return Case("Expand", (computed(x), pick.given(int64(wanted))), {}, 13)


def _tile(pick: Pick) -> Case:
    x = _values(pick)
    repeats = int64([pick.whole(1, 3) for _ in x.shape])
    return Case("Tile", (computed(x), pick.given(repeats)), {}, 13)


def _gather(pick: Pick) -> Case:
    x = _values(pick)
    axis = pick.axis(x.ndim)
    side = x.shape[axis]
    shape = pick.one(((), (3,), (2, 2)))
    indices = pick.wholes(shape, -side, side - 1)
    if pick.maybe() and shape:
        return Case("Gather", (x, computed(indices)), {"axis": axis}, 13)
    return Case("Gather", (computed(x), pick.given(indices)), {"axis": axis}, pick.one((11, 13)))


def _gather_elements(pick: Pick) -> Case:
    x = _values(pick)
    axis = pick.axis(x.ndim)
    shape = list(x.shape)
    shape[axis] = pick.whole(1, 4)
    indices = pick.wholes(shape, -x.shape[axis], x.shape[axis] - 1)
    told = {"axis": axis}
    return Case("GatherElements", (computed(x), pick.given(indices)), told, pick.one((11, 13)))


def _pad(pick: Pick) -> Case:
    x = pick.floats([side + 1 for side in pick.sides()])
    opset = pick.one((11, 13, 18, 19))
    modes = ("constant", "reflect", "edge", *(("wrap",) if opset >= 19 else ()))
    mode = pick.one(modes)
    axes = pick.axes(x.ndim) if opset >= 18 and pick.maybe() else list(range(x.ndim))
    least = -1 if mode == "constant" and min(x.shape) > 2 else 0
    pads = [pick.whole(least, min(2, x.shape[a] - 1)) for a in axes * 2]
    inputs: tuple[Any, ...] = (computed(x), int64(pads))
    if mode == "constant" and pick.maybe():
        inputs = (*inputs, np.array(1.5, np.float32))
    if opset >= 18 and axes != list(range(x.ndim)):
        inputs = (*inputs, *(() if len(inputs) == 3 else (None,)), int64(axes))
    return Case("Pad", inputs, {"mode": mode} if mode != "constant" or pick.maybe() else {}, opset)


def _shape(pick: Pick) -> Case:
    x = _values(pick, 2)
    told = {"start": pick.whole(0, 1), "end": x.ndim} if pick.maybe() else {}
    return Case("Shape", (computed(x),), told, 15)


CASES: dict[str, Callable[[Pick], Case]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda pick: Case("Size", (computed(_values(pick)),), {}, 13),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
