"""Networks that decode by themselves: B x N x (5+C), boxes as cx, cy, w, h in network pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from quantcore.evaluation.decoding.importance import of_scores
from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.rows import RowDecoding, confident, one_tensor, shapes_of
from quantcore.ir.decoding import DECODED, Shape
from quantcore.ir.model import Array


@dataclass(frozen=True)
class DecodedBoxes(RowDecoding):
    """Nothing is left but NMS."""

    kind: ClassVar[str] = "none"

    @property
    def heads(self) -> int:
        """One."""
        return 1

    @property
    def drawn(self) -> DecodedBoxes:
        """Itself."""
        return self

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> int:
        """See Decoding."""
        return one_tensor(shapes)

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """See Decoding: the output."""
        self.classes(shapes_of(outputs), size)
        return np.asarray(outputs[0], np.float32)

    def candidates(
        self, outputs: Sequence[Array], size: tuple[int, int], threshold: float
    ) -> Iterator[Array]:
        """See RowDecoding."""
        for rows in self.decode(outputs, size):
            yield rows[confident(rows, threshold)]

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """See Decoding."""
        Pen(graph).add("Identity", heads, "identity", DECODED)

    def importance(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
        """See Decoding; an error in a box counts by the size of the box."""
        rows = self.decode(outputs, size)
        return [of_scores(rows, np.maximum(rows[..., 2:4], 1))]

    def to_dict(self) -> dict[str, Any]:
        """See Decoding; readers of this format ask every kind for strides and anchors."""
        return {"kind": self.kind, "strides": (), "anchors": ()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DecodedBoxes:
        """See Decoding."""
        return cls()
