"""YOLOX: one tensor B x N x (5+C), scores already sigmoid, boxes relative to a grid of cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.importance import of_scores
from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.prediction_grid import (
    PredictionGrid,
    check_strides,
    prediction_grid,
)
from quantcore.evaluation.decoding.rows import RowDecoding, confident, one_tensor, shapes_of
from quantcore.ir.decoding import Shape
from quantcore.ir.model import Array
from quantcore.ir.values import listed, whole


@dataclass(frozen=True)
class GridDecoding(RowDecoding):
    """Center = (raw + cell) * stride, size = exp(raw) * stride.

    Attributes:
        strides: Pixels per cell, one for each part of N.
    """

    strides: tuple[int, ...]

    kind: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        """Raises ModelError for strides below 1, or none."""
        check_strides(self.strides)

    @property
    def heads(self) -> int:
        """One, whatever the strides."""
        return 1

    @property
    def drawn(self) -> DecodedBoxes:
        """See Decoding."""
        return DecodedBoxes()

    def predictions(self, size: tuple[int, int]) -> PredictionGrid:
        """One for each cell, finest part first, for an input of `size` (height, width)."""
        bases = tuple(((stride, stride),) for stride in self.strides)
        return prediction_grid(size, self.strides, bases, shift=0.0, reach=1)

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> int:
        """See Decoding."""
        return one_tensor(shapes, self.predictions(size).levels[-1])

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """See Decoding: B x N x (5+C)."""
        rows: Array = self._rows(outputs, size).copy()
        self.predictions(size).place(rows, slice(None), _grow)
        return rows

    def candidates(
        self, outputs: Sequence[Array], size: tuple[int, int], threshold: float
    ) -> Iterator[Array]:
        """See RowDecoding."""
        for image in self._rows(outputs, size):
            index = confident(image, threshold)
            rows = image[index]
            self.predictions(size).place(rows, index, _grow)
            yield rows

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """See Decoding."""
        self.predictions(size).draw(graph, heads[0], _draw_growth)

    def importance(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
        """See Decoding."""
        return [of_scores(self._rows(outputs, size))]

    def to_dict(self) -> dict[str, Any]:
        """See Decoding; readers of this format ask every kind for anchors."""
        return {"kind": self.kind, "strides": self.strides, "anchors": ()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GridDecoding:
        """See Decoding."""
        return cls(tuple(whole(stride) for stride in listed(data["strides"])))

    def _rows(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        self.classes(shapes_of(outputs), size)
        return np.asarray(outputs[0], np.float32)


def _grow(extent: Array) -> None:
    with np.errstate(over="ignore"):  # a broken network may say anything; NMS drops infinity
        np.exp(extent, out=extent)


def _draw_growth(pen: Pen, extent: str) -> str:
    return pen.add("Exp", [extent], "exp")
