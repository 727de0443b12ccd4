"""The cells of an image that predictions belong to, and how far each moves and scales a box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx

from quantcore.errors import ModelError
from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.rows import Index
from quantcore.ir.decoding import DECODED
from quantcore.ir.model import Array
from quantcore.showing import shown

#: Pixels per cell; no network input is larger.
_LARGEST = 1 << 14

#: For each head the (width, height) of its boxes in pixels, one for each prediction of a cell.
Bases = tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class PredictionGrid:
    """What decoding needs to know of each of the N predictions, in the order of the result.

    Center = raw * gain + origin, size = raw * base; what `raw` is, the decoding says.

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

    def place(self, rows: Array, index: Index, grow: Callable[[Array], None]) -> None:
        """Turns raw rows (... x n x K) into decoded ones in place.

        Args:
            rows: The center and the size come first.
            index: Which predictions they are.
            grow: Turns raw sizes into factors of `base`, in place.
        """
        center, extent = rows[..., :2], rows[..., 2:4]
        center *= self.gain[index]
        center += self.origin[index]
        grow(extent)
        extent *= self.base[index]

    def draw(self, graph: onnx.GraphProto, rows: str, grow: Callable[[Pen, str], str]) -> None:
        """Draws what `place` does to all rows, B x N x K; the last node writes `DECODED`."""
        pen = Pen(graph)
        center = pen.columns(rows, "center", 0, 2)
        gain = pen.constant("gain", self.gain, np.float32)
        origin = pen.constant("origin", self.origin, np.float32)
        center = pen.add("Add", [pen.add("Mul", [center, gain], "scaled"), origin], "moved")
        extent = grow(pen, pen.columns(rows, "extent", 2, 4))
        base = pen.constant("base", self.base, np.float32)
        extent = pen.add("Mul", [extent, base], "sized")
        scores = pen.columns(rows, "scores", 4, np.iinfo(np.int64).max)
        pen.add("Concat", [center, extent, scores], "concat", DECODED, axis=-1)


@lru_cache(maxsize=16)
def prediction_grid(
    size: tuple[int, int], strides: tuple[int, ...], bases: Bases, shift: float, reach: int
) -> PredictionGrid:
    """The predictions of a network: head by head, in each base by base, in each row by row.

    Args:
        size: (height, width) of the network input in pixels.
        strides: Pixels per cell, one for each head.
        bases: One set for each head.
        shift: How far before its cell a prediction's origin lies, in cells.
        reach: How far a raw center of 1 moves it, in cells.
    """
    origin, gain, base, levels = [], [], [], [0]
    for stride, boxes in zip(strides, bases, strict=True):
        height, width = size[0] // stride, size[1] // stride
        y, x = np.mgrid[:height, :width].reshape(2, 1, -1)
        cells = np.stack([x, y], -1).repeat(len(boxes), axis=0).reshape(-1, 2)
        origin.append((cells - shift) * stride)
        gain.append(np.full((len(cells), 1), stride * reach))
        base.append(np.repeat(np.asarray(boxes, np.float32), height * width, axis=0))
        levels.append(levels[-1] + len(cells))
    return PredictionGrid(
        np.concatenate(origin).astype(np.float32),
        np.concatenate(gain).astype(np.float32),
        np.concatenate(base).astype(np.float32),
        tuple(levels),
    )


def check_strides(strides: tuple[int, ...]) -> None:
    """Raises ModelError where a head has no cells to speak of."""
    if not strides or min(strides) < 1 or max(strides) > _LARGEST:
        raise ModelError(
            f"decoding: strides must be 1 or more and {_LARGEST} at most, one for each head, not "
            f"{shown(strides)}"
        )
