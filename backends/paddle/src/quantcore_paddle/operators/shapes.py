"""What moves values without changing them: shapes, slices, gathering, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore.contracts.resampling import padded
from quantcore_paddle.operators.common import (
    Builder,
    Call,
    Tensor,
    plain,
    sampled,
    sizes,
    to_tensor,
    told,
)


def _concat(node: Node) -> Call:
    weave = node.operands(to_tensor)
    axis = int(node.attributes["axis"])
    return lambda *computed: paddle.concat(weave(*computed), axis=axis)


def _reshape(node: Node) -> Call:
    weave = node.operands(to_tensor)
    kept = not node.attributes.get("allowzero", 0)

    def reshape(*computed: Tensor) -> Tensor:
        x, *shape = weave(*computed)
        wanted = sizes(node, 1, (x, *shape))
        return x.reshape([x.shape[i] if s == 0 and kept else s for i, s in enumerate(wanted)])

    return reshape


def _transpose(node: Node) -> Call:
    order = node.attributes.get("perm")
    return lambda x: x.transpose(list(order or reversed(range(x.ndim))))


def _slice(node: Node) -> Call:
    node.slices((1,) * 8)  # refuses what it cannot cut before anything runs
    return lambda x: x[tuple(node.slices(x.shape))]


def _split(node: Node) -> Call:
    axis = int(node.attributes.get("axis", 0))
    node.integers(1)  # refuses sizes that are computed
    alone = len(node.outputs) == 1

    def split(x: Tensor) -> Any:
        parts = paddle.split(x, node.split_sizes(x.shape[axis]), axis=axis)
        return parts[0] if alone else parts

    return split


def _flatten(node: Node) -> Call:
    axis = int(node.attributes.get("axis", 1))
    return lambda x: x.reshape([math.prod(x.shape[:axis]), -1])


def _squeeze(node: Node) -> Call:
    axes = node.axes()
    return lambda x: paddle.squeeze(x, None if axes is None else list(axes))


def _unsqueeze(node: Node) -> Call:
    axes = node.axes()
    if axes is None:
        raise node.refused("needs axes")

    def unsqueeze(x: Tensor) -> Tensor:
        return paddle.unsqueeze(x, sorted(a % (x.ndim + len(axes)) for a in axes))

    return unsqueeze


def _expand(node: Node) -> Call:
    weave = node.operands(to_tensor)

    def expand(*computed: Tensor) -> Tensor:
        x, *shape = weave(*computed)
        wanted = np.broadcast_shapes(tuple(x.shape), tuple(sizes(node, 1, (x, *shape))))
        return paddle.expand(x, list(wanted))

    return expand


def _tile(node: Node) -> Call:
    weave = node.operands(to_tensor)

    def tile(*computed: Tensor) -> Tensor:
        x, *repeats = weave(*computed)
        return paddle.tile(x, sizes(node, 1, (x, *repeats)))

    return tile


def _from_the_front(indices: Tensor, length: int) -> Tensor:
    """Indices of which none counts from the end."""
    indices = indices.astype("int64")
    return paddle.where(indices < 0, indices + length, indices)


def _gather(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    axis %= x.ndim
    flat = _from_the_front(indices, x.shape[axis]).reshape([-1])
    shape = [*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]]
    return paddle.index_select(x, flat, axis=axis).reshape(shape)


def _gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    where = _from_the_front(indices, x.shape[axis])
    return paddle.take_along_axis(x, where, axis, broadcast=False)


def _pad(node: Node) -> Call:
    value = 0.0
    if node.constant(2) is not None:
        value = node.constants[2].reshape(-1)[0].item()
    node.paddings(8)  # refuses pads that are computed

    def pad(x: Tensor) -> Tensor:
        if node.attributes.get("mode", "constant") != "constant":
            return sampled(x, padded(node, x.shape))
        pads = node.paddings(x.ndim)
        cuts = [
            slice(max(-before, 0), length - max(-after, 0))
            for length, (before, after) in zip(x.shape, pads, strict=True)
        ]
        ends = [max(end, 0) for pair in pads for end in pair]
        return F.pad(x[tuple(cuts)], ends, value=value, pad_from_left_axis=True)

    return pad


def _shape(node: Node) -> Call:
    taken = slice(node.attributes.get("start", 0), node.attributes.get("end"))
    return lambda x: paddle.to_tensor(list(x.shape)[taken], dtype="int64")


FUNCTIONS: dict[str, Builder] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": told(_gather, axis=0),
    "GatherElements": told(_gather_elements, axis=0),
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": plain(lambda x: paddle.to_tensor(math.prod(x.shape), dtype="int64")),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
