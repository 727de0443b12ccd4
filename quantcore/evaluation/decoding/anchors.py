"""YOLOv5 and YOLOv7: for each stride a raw head B x (A*(5+C)) x H x W, boxes about anchors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.errors import ModelError
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.importance import of_logits
from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.prediction_grid import (
    Bases,
    PredictionGrid,
    check_strides,
    prediction_grid,
)
from quantcore.evaluation.decoding.rows import (
    BEFORE_CLASSES,
    RowDecoding,
    mismatch,
    shapes_of,
    sigmoid_,
)
from quantcore.ir.decoding import Shape
from quantcore.ir.model import Array
from quantcore.ir.values import listed, positive, whole


@dataclass(frozen=True)
class AnchorDecoding(RowDecoding):
    """With s the sigmoid: center = (2 s - 0.5 + cell) * stride, size = (2 s)^2 * anchor.

    Attributes:
        strides: Pixels per cell, one for each head.
        anchors: For each head its anchors (width, height) in pixels.
    """

    strides: tuple[int, ...]
    anchors: Bases

    kind: ClassVar[str] = "anchors"

    def __post_init__(self) -> None:
        """Raises ModelError for strides below 1, or anchors that do not match the strides."""
        check_strides(self.strides)
        if len(self.anchors) != len(self.strides):
            raise ModelError(
                f"decoding: {len(self.anchors)} sets of anchors for {len(self.strides)} strides"
            )
        if not all(self.anchors):
            raise ModelError("decoding: every head needs anchors")

    @property
    def heads(self) -> int:
        """One for each stride."""
        return len(self.strides)

    @property
    def drawn(self) -> DecodedBoxes:
        """See Decoding."""
        return DecodedBoxes()

    def predictions(self, size: tuple[int, int]) -> PredictionGrid:
        """Head by head, in each the anchors, in each the rows, for `size` (height, width)."""
        return prediction_grid(size, self.strides, self.anchors, shift=0.5, reach=2)

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> int:
        """See Decoding."""
        if len(shapes) != len(self.strides):
            raise mismatch(f"{len(self.strides)} heads", shapes)
        counts = set()
        for shape, stride, anchors in zip(shapes, self.strides, self.anchors, strict=True):
            count, height, width = len(anchors), size[0] // stride, size[1] // stride
            fits = len(shape) == 4 and shape[2:] == (height, width) and not shape[1] % count
            if not fits or shape[1] // count <= BEFORE_CLASSES:
                raise mismatch(f"a head B x {count}*(5+classes) x {height} x {width}", shapes)
            counts.add(shape[1] // count - BEFORE_CLASSES)
        if len(counts) > 1:
            raise mismatch("heads with the same number of classes", shapes)
        return counts.pop()

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """See Decoding: B x N x (5+C)."""
        heads = self._heads(outputs, size)
        # B x A x K x cells -> B x N x K
        parts = [h.transpose(0, 1, 3, 2).reshape(h.shape[0], -1, h.shape[2]) for h in heads]
        rows: Array = np.concatenate(parts, axis=1)
        self._place(rows, slice(None), size)
        return rows

    def candidates(
        self, outputs: Sequence[Array], size: tuple[int, int], threshold: float
    ) -> Iterator[Array]:
        """See RowDecoding."""
        heads, starts = self._heads(outputs, size), self.predictions(size).levels
        for image in range(len(heads[0])):
            found = [_confident(head[image], threshold) for head in heads]
            rows = np.concatenate([part for _, part in found])
            index = np.concatenate([i + s for (i, _), s in zip(found, starts, strict=False)])
            self._place(rows, index, size)
            yield rows

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """See Decoding."""
        pen, levels = Pen(graph), []
        parts = zip(heads, self.strides, self.anchors, strict=True)
        for level, (head, stride, anchors) in enumerate(parts):
            count, area = len(anchors), (size[0] // stride) * (size[1] // stride)
            # B x (A*K) x H x W -> B x N x K; 0 copies the batch, -1 leaves K open.
            shape = pen.constant(f"split.{level}.shape", [0, count, -1, area], np.int64)
            split = pen.add("Reshape", [head, shape], f"split.{level}")
            moved = pen.add("Transpose", [split], f"last.{level}", perm=[0, 1, 3, 2])
            # Not (0, N, -1): K has to be inferred, and Reshape counts 0 by position.
            shape = pen.constant(f"rows.{level}.shape", [0, count * area, -1], np.int64)
            levels.append(pen.add("Reshape", [moved, shape], f"rows.{level}"))
        rows = pen.add("Sigmoid", [pen.add("Concat", levels, "levels", axis=1)], "sigmoid")
        self.predictions(size).draw(graph, rows, _draw_growth)

    def importance(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
        """See Decoding."""
        heads = [head.transpose(0, 1, 3, 2) for head in self._heads(outputs, size)]
        weights = of_logits(heads)
        return [
            weight.transpose(0, 1, 3, 2).reshape(output.shape)
            for weight, output in zip(weights, outputs, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """See Decoding."""
        return {"kind": self.kind, "strides": self.strides, "anchors": self.anchors}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AnchorDecoding:
        """See Decoding."""
        strides = tuple(whole(stride) for stride in listed(data["strides"]))
        return cls(
            strides, tuple(tuple(map(_anchor, listed(level))) for level in listed(data["anchors"]))
        )

    def _heads(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
        """The checked outputs, each B x A x K x cells."""
        self.classes(shapes_of(outputs), size)
        return [
            np.asarray(output, np.float32).reshape(
                len(output), len(anchors), output.shape[1] // len(anchors), -1
            )
            for output, anchors in zip(outputs, self.anchors, strict=True)
        ]

    def _place(
        self, rows: Array, index: slice | npt.NDArray[np.intp], size: tuple[int, int]
    ) -> None:
        sigmoid_(rows)
        self.predictions(size).place(rows, index, _grow)


def _confident(head: Array, threshold: float) -> tuple[npt.NDArray[np.intp], Array]:
    """Indices and raw rows (n x K) of a head (A x K x cells) whose objectness is high enough."""
    objectness = head[:, 4].copy()
    sigmoid_(objectness)
    anchor, cell = np.nonzero(objectness >= threshold)
    return anchor * head.shape[2] + cell, head[anchor, :, cell]


def _grow(extent: Array) -> None:
    extent *= 2
    np.square(extent, out=extent)


def _draw_growth(pen: Pen, extent: str) -> str:
    extent = pen.add("Mul", [extent, pen.constant("two", 2, np.float32)], "doubled")
    return pen.add("Mul", [extent, extent], "squared")


def _anchor(value: Any) -> tuple[float, float]:
    width, height = map(positive, listed(value))
    return width, height
