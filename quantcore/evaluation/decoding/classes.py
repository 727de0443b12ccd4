"""Networks that say what an image shows as a whole: B x C, a score for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.rows import mismatch, shapes_of
from quantcore.ir.decoding import Decoding, Limits, Shape
from quantcore.ir.model import Array
from quantcore.ir.values import flag


@dataclass(frozen=True)
class ClassScores(Decoding):
    """One output B x C, or B x C x 1 x 1 where a network ends in its pooling.

    Attributes:
        softmax: Whether a softmax is still to be taken: the scores are logits.
    """

    softmax: bool = True

    kind: ClassVar[str] = "classes"
    task: ClassVar[str] = "classification"
    output: ClassVar[str] = "probabilities"
    rank: ClassVar[int] = 2

    @property
    def heads(self) -> int:
        """One."""
        return 1

    @property
    def drawn(self) -> ClassScores:
        """Nothing is left but to read them."""
        return ClassScores(softmax=False)

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> int:
        """See Decoding."""
        shape = shapes[0] if len(shapes) == 1 else ()
        if len(shape) < 2 or set(shape[2:]) - {1}:
            raise mismatch("one output B x classes", shapes)
        return shape[1]

    def detect(
        self, outputs: Sequence[Array], size: tuple[int, int], limits: Limits
    ) -> list[Array]:
        """See Decoding: the probability of each class, C numbers for each image."""
        return list(self.decode(outputs, size))

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """See Decoding: B x C probabilities."""
        count = self.classes(shapes_of(outputs), size)
        scores = np.array(outputs[0], np.float32).reshape(-1, count)
        if not self.softmax:
            return scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        found: Array = powers / powers.sum(axis=1, keepdims=True)
        return found

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """See Decoding."""
        pen = Pen(graph)
        if not self.softmax:
            pen.add("Flatten", heads, "flatten", self.output, axis=1)
            return
        flat = pen.add("Flatten", heads, "flatten", axis=1)
        pen.add("Softmax", [flat], "softmax", self.output, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """See Decoding."""
        return {"kind": self.kind, "softmax": self.softmax}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassScores:
        """See Decoding."""
        return cls(flag(data["softmax"]))
