"""From raw network outputs to boxes, objectness and class scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quantcore.errors import ModelError
from quantcore.ir.model import Array, Decoding

Outputs = Mapping[str, Array] | Sequence[Array]

#: Output name of a graph that decodes by itself; see `quantcore.evaluation.decode_graph`.
DECODED = "detections"


@dataclass(frozen=True)
class Cells:
    """What decoding needs to know of each of the N predictions, in the order of the result.

    With s the sigmoid for `anchors` and the raw value for `grid`: center = s * gain + origin,
    size = (2 s)^2 * base for `anchors`, exp(raw) * base for `grid`.

    Attributes:
        origin: N x 2, x and y in network pixels.
        gain: N x 1, network pixels per unit.
        base: N x 2, width and height in network pixels.
        levels: First prediction of each head, then N.
    """

    origin: Array
    gain: Array
    base: Array
    levels: tuple[int, ...]


@lru_cache(maxsize=16)
def cells(decoding: Decoding, size: tuple[int, int]) -> Cells:
    """The table of predictions for a network input of `size` (height, width) in pixels."""
    origin, gain, base, levels = [], [], [], [0]
    anchored = decoding.kind == "anchors"
    all_anchors = decoding.anchors if anchored else tuple(((s, s),) for s in decoding.strides)
    for stride, anchors in zip(decoding.strides, all_anchors, strict=True):
        height, width = size[0] // stride, size[1] // stride
        y, x = np.mgrid[:height, :width].reshape(2, 1, -1)
        grid = np.stack([x, y], -1).repeat(len(anchors), axis=0).reshape(-1, 2)
        origin.append((grid - (0.5 if anchored else 0.0)) * stride)
        gain.append(np.full((len(grid), 1), stride * (2 if anchored else 1)))
        base.append(np.repeat(np.asarray(anchors, np.float32), height * width, axis=0))
        levels.append(levels[-1] + len(grid))
    return Cells(
        np.concatenate(origin).astype(np.float32),
        np.concatenate(gain).astype(np.float32),
        np.concatenate(base).astype(np.float32),
        tuple(levels),
    )


def decode(outputs: Outputs, decoding: Decoding, size: tuple[int, int]) -> Array:
    """Decodes every prediction.

    Args:
        outputs: The raw heads in the order of `decoding.strides`, or one B x N x (5+C) tensor.
        decoding: The model's.
        size: (height, width) of the network input in pixels.

    Returns:
        B x N x (5+C): center x, center y, width, height in network pixels, objectness, class
        scores. For `anchors` the heads follow one another, in each the anchors, in each the rows.

    Raises:
        ModelError: The outputs do not have the shapes that `decoding` describes.
    """
    heads = _heads(outputs, decoding, size)
    if decoding.kind == "none":
        return heads[0]
    rows: Array
    if decoding.kind == "grid":
        rows = heads[0].copy()
    else:
        # B x A x K x cells -> B x N x K
        parts = [h.transpose(0, 1, 3, 2).reshape(h.shape[0], -1, h.shape[2]) for h in heads]
        rows = np.concatenate(parts, axis=1)
    _finish(rows, cells(decoding, size), slice(None), decoding.kind)
    return rows


def decode_candidates(
    outputs: Outputs, decoding: Decoding, size: tuple[int, int], threshold: float
) -> Iterator[Array]:
    """Decodes only what can pass a score threshold; far less work than `decode`.

    A score is objectness times class score, so a prediction whose objectness alone is below the
    threshold cannot pass.

    Args:
        outputs: See `decode`.
        decoding: The model's.
        size: (height, width) of the network input in pixels.
        threshold: Lowest objectness of interest.

    Yields:
        For each image n x (5+C), the rows of `decode` with that objectness, in their order.

    Raises:
        ModelError: See `decode`.
    """
    heads = _heads(outputs, decoding, size)
    for image in range(len(heads[0])):
        if decoding.kind != "anchors":
            index = np.flatnonzero(heads[0][image, :, 4] >= threshold)
            rows = heads[0][image, index]
        else:
            found = [_confident(head[image], threshold) for head in heads]
            rows = np.concatenate([part for _, part in found])
            starts = cells(decoding, size).levels
            index = np.concatenate([i + s for (i, _), s in zip(found, starts, strict=False)])
        if decoding.kind != "none":
            _finish(rows, cells(decoding, size), index, decoding.kind)
        yield rows


def _confident(
    head: Array, threshold: float
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Array]:
    """Indices and raw rows (n x K) of a head (A x K x cells) whose objectness is high enough."""
    objectness = head[:, 4].copy()
    sigmoid_(objectness)
    anchor, cell = np.nonzero(objectness >= threshold)
    return anchor * head.shape[2] + cell, head[anchor, :, cell]


def _finish(
    rows: Array,
    table: Cells,
    index: slice | np.ndarray[tuple[int], np.dtype[np.intp]],
    kind: str,
) -> None:
    """Turns raw rows (... x n x K) into decoded ones in place; `index` says which they are."""
    if kind == "anchors":
        sigmoid_(rows)
    center, extent = rows[..., :2], rows[..., 2:4]
    center *= table.gain[index]
    center += table.origin[index]
    if kind == "anchors":
        extent *= 2
        np.square(extent, out=extent)
    else:
        with np.errstate(over="ignore"):  # a broken network may say anything; NMS drops infinity
            np.exp(extent, out=extent)
    extent *= table.base[index]


def sigmoid_(values: Array) -> None:
    """The logistic function in place; exp(-x) overflows to infinity, which is the right zero."""
    with np.errstate(over="ignore"):
        np.negative(values, out=values)
        np.exp(values, out=values)
        values += 1
        np.reciprocal(values, out=values)


def _heads(outputs: Outputs, decoding: Decoding, size: tuple[int, int]) -> list[Array]:
    """The checked outputs: B x A x K x cells for `anchors`, else one B x N x K."""
    arrays = list(outputs.values()) if isinstance(outputs, Mapping) else list(outputs)
    if decoding.kind != "anchors":
        wanted = cells(decoding, size).levels[-1] if decoding.kind == "grid" else None
        shape = arrays[0].shape if len(arrays) == 1 else ()
        if len(shape) != 3 or shape[2] < 6 or wanted not in (None, shape[1]):
            raise _mismatch(f"one output B x {wanted or 'N'} x (5+classes)", arrays)
        return [np.asarray(arrays[0], np.float32)]
    if len(arrays) != len(decoding.strides):
        raise _mismatch(f"{len(decoding.strides)} heads", arrays)
    heads = []
    for array, stride, anchors in zip(arrays, decoding.strides, decoding.anchors, strict=True):
        count, height, width = len(anchors), size[0] // stride, size[1] // stride
        fits = array.ndim == 4 and array.shape[2:] == (height, width)
        if not fits or array.shape[1] % count or array.shape[1] // count < 6:
            raise _mismatch(f"a head B x {count}*(5+classes) x {height} x {width}", arrays)
        shape = (len(array), count, array.shape[1] // count, height * width)
        heads.append(np.asarray(array, np.float32).reshape(shape))
    return heads


def _mismatch(wanted: str, arrays: Sequence[Array]) -> ModelError:
    have = ", ".join(" x ".join(map(str, a.shape)) for a in arrays) or "nothing"
    return ModelError(f"decoding: needs {wanted}, the network gave {have}; check the preset")
