"""YOLOv8, YOLOv9, YOLO11: one tensor of boxes in pixels and class scores, without objectness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from quantcore.errors import ModelError
from quantcore.evaluation.decoding.importance import of_class_scores
from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.rows import (
    RowDecoding,
    mismatch,
    promising,
    shapes_of,
    sigmoid_,
)
from quantcore.ir.decoding import DECODED, Shape
from quantcore.ir.model import Array
from quantcore.ir.values import flag, text

#: Where a prediction's box ends.
_BOX = 4


@dataclass(frozen=True)
class AnchorFreeDecoding(RowDecoding):
    """The network decodes its boxes by itself; what is left is how they are laid out.

    Attributes:
        layout: `rows`, B x N x (4+C), or `columns`, B x (4+C) x N.
        boxes: `center`, center x, center y, width, height, or `corners`, x1, y1, x2, y2.
        sigmoid: Whether class scores still need it.
    """

    layout: str = "rows"
    boxes: str = "center"
    sigmoid: bool = False

    kind: ClassVar[str] = "anchor_free"

    def __post_init__(self) -> None:
        """Raises ModelError for an unknown layout or kind of boxes."""
        if self.layout not in ("rows", "columns"):
            raise ModelError(f"decoding: layout must be rows or columns, not {self.layout!r}")
        if self.boxes not in ("center", "corners"):
            raise ModelError(f"decoding: boxes must be center or corners, not {self.boxes!r}")

    @property
    def heads(self) -> int:
        """One."""
        return 1

    @property
    def drawn(self) -> AnchorFreeDecoding:
        """Rows of centers, sizes and scores."""
        return AnchorFreeDecoding()

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> int:
        """See Decoding."""
        shape = shapes[0] if len(shapes) == 1 else ()
        columns = self.layout == "columns"
        if len(shape) != 3 or shape[1 if columns else 2] <= _BOX:
            wanted = "B x (4+classes) x N" if columns else "B x N x (4+classes)"
            raise mismatch(f"one output {wanted}", shapes)
        return shape[1 if columns else 2] - _BOX

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """See Decoding: B x N x (4+C)."""
        return np.stack([self._placed(image) for image in self._rows(outputs, size)])

    def candidates(
        self, outputs: Sequence[Array], size: tuple[int, int], threshold: float
    ) -> Iterator[Array]:
        """See RowDecoding."""
        for image in self._rows(outputs, size):
            rows = self._placed(image[promising(image[:, _BOX:], self.sigmoid, threshold)])
            yield np.insert(rows, _BOX, np.float32(1), axis=1)

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """See Decoding."""
        pen, (rows,) = Pen(graph), heads
        if self == self.drawn:
            pen.add("Identity", [rows], "identity", DECODED)
            return
        if self.layout == "columns":
            rows = pen.add("Transpose", [rows], "rows", perm=[0, 2, 1])
        if self.boxes == "corners":
            low, high = pen.columns(rows, "low", 0, 2), pen.columns(rows, "high", 2, 4)
            half = pen.constant("half", 0.5, np.float32)
            boxes = [
                pen.add("Mul", [pen.add("Add", [low, high], "sum"), half], "center"),
                pen.add("Sub", [high, low], "extent"),
            ]
        else:
            boxes = [pen.columns(rows, "boxes", 0, _BOX)]
        scores = pen.columns(rows, "scores", _BOX, np.iinfo(np.int64).max)
        if self.sigmoid:
            scores = pen.add("Sigmoid", [scores], "sigmoid")
        pen.add("Concat", [*boxes, scores], "concat", DECODED, axis=-1)

    def importance(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
        """See Decoding; an error in a box counts by the size of the box."""
        rows = self._rows(outputs, size)
        weight = np.empty(rows.shape, np.float32)
        weight[..., _BOX:], confidence = of_class_scores(rows[..., _BOX:], self.sigmoid)
        corners = self.boxes == "corners"
        extents = rows[..., 2:_BOX] - rows[..., :2] if corners else rows[..., 2:_BOX]
        each = confidence / np.square(np.maximum(extents, 1))
        weight[..., :_BOX] = np.concatenate((each, each), axis=-1)
        weight /= max(float(confidence.sum(dtype=np.float64)), 1.0)
        return [weight.transpose(0, 2, 1) if self.layout == "columns" else weight]

    def to_dict(self) -> dict[str, Any]:
        """See Decoding."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AnchorFreeDecoding:
        """See Decoding."""
        return cls(text(data["layout"]), text(data["boxes"]), flag(data["sigmoid"]))

    def _rows(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """The checked output, B x N x (4+C), without a copy."""
        self.classes(shapes_of(outputs), size)
        rows = np.asarray(outputs[0], np.float32)
        return rows.transpose(0, 2, 1) if self.layout == "columns" else rows

    def _placed(self, rows: Array) -> Array:
        """A copy of raw rows, n x (4+C), as centers, sizes and scores."""
        placed: Array = np.array(rows, np.float32, order="C")
        if self.boxes == "corners":
            low, high = rows[:, :2], rows[:, 2:_BOX]
            placed[:, :2] = (low + high) * np.float32(0.5)
            placed[:, 2:_BOX] = high - low
        if self.sigmoid:
            sigmoid_(placed[:, _BOX:])
        return placed
