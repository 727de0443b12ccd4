"""YOLOv10, YOLO26 and exports with NMS: B x N x 6, the detections themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.rows import mismatch, shapes_of
from quantcore.evaluation.nms import FAR
from quantcore.ir.decoding import DECODED, Decoding, Limits, Shape
from quantcore.ir.model import Array

#: x1, y1, x2, y2 in network pixels, score, class index.
_COLUMNS = 6


@dataclass(frozen=True)
class EndToEndDecoding(Decoding):
    """Nothing is left but to leave out what scores too low, and boxes without an area.

    Exports fill the N up with rows of zeros, or with boxes that nobody would believe.
    """

    kind: ClassVar[str] = "end_to_end"

    @property
    def heads(self) -> int:
        """One."""
        return 1

    @property
    def drawn(self) -> EndToEndDecoding:
        """Itself."""
        return self

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> None:
        """See Decoding: six columns, however many classes there are."""
        shape = shapes[0] if len(shapes) == 1 else ()
        if len(shape) != 3 or shape[2] != _COLUMNS:
            raise mismatch(f"one output B x N x {_COLUMNS}", shapes)

    def detect(
        self, outputs: Sequence[Array], size: tuple[int, int], limits: Limits
    ) -> list[Array]:
        """See Decoding; equal scores keep the network's order."""
        return [_best(image, limits) for image in self.decode(outputs, size)]

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """See Decoding: the output."""
        self.classes(shapes_of(outputs), size)
        return np.asarray(outputs[0], np.float32)

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """See Decoding."""
        Pen(graph).add("Identity", heads, "identity", DECODED)

    def to_dict(self) -> dict[str, Any]:
        """See Decoding."""
        return {"kind": self.kind}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EndToEndDecoding:
        """See Decoding."""
        return cls()


def _best(rows: Array, limits: Limits) -> Array:
    """A copy of the rows that count, best first."""
    boxes, score, label = rows[:, :4], rows[:, 4], rows[:, 5]
    with np.errstate(invalid="ignore"):  # infinite corners are dropped, not subtracted in earnest
        sound = (np.abs(boxes) < FAR).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        sound &= (score > limits.conf) & (label >= 0) & (label == np.floor(label))
    kept = rows[sound]
    order = np.argsort(-kept[:, 4], kind="stable")[: limits.detections]
    best: Array = kept[order]
    return best
