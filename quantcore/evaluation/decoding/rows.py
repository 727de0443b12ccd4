"""What decodings share whose predictions are rows that compete: candidates, then NMS."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from quantcore.errors import ModelError
from quantcore.evaluation.nms import nms
from quantcore.ir.decoding import Decoding, Limits, Shape
from quantcore.ir.model import Array

#: Which of the N predictions some rows are.
Index = slice | npt.NDArray[np.intp]

#: Columns of a row before its class scores: center x, center y, width, height, objectness.
BEFORE_CLASSES = 5


class RowDecoding(Decoding):
    """Decodes to rows: center x, center y, width, height in network pixels, objectness, scores.

    A row's score for a class is objectness times class score; NMS leaves the best boxes. Networks
    without objectness decode to rows without it; their candidates have 1 there.
    """

    def detect(
        self, outputs: Sequence[Array], size: tuple[int, int], limits: Limits
    ) -> list[Array]:
        """See Decoding; what cannot pass is never decoded."""
        return nms(self.candidates(outputs, size, limits.conf), limits)

    @abstractmethod
    def candidates(
        self, outputs: Sequence[Array], size: tuple[int, int], threshold: float
    ) -> Iterator[Array]:
        """Decodes only what can pass a score threshold; far less work than `decode`.

        A score is objectness times class score, so a prediction whose objectness alone is below
        the threshold cannot pass; nor can one without objectness whose class scores all are.

        Args:
            outputs: See `detect`.
            size: Likewise.
            threshold: Lowest objectness, or best class score, of interest.

        Yields:
            For each image n x (5+C), the rows of `decode` with that much, in their order.

        Raises:
            ModelError: See `classes`.
        """


def one_tensor(shapes: Sequence[Shape], count: int | None = None) -> int:
    """The classes of a network whose one output is B x N x (5+C).

    Args:
        shapes: Of the network's outputs.
        count: What N must be; None for any.

    Raises:
        ModelError: The outputs are others.
    """
    shape = shapes[0] if len(shapes) == 1 else ()
    if len(shape) != 3 or shape[2] <= BEFORE_CLASSES or count not in (None, shape[1]):
        raise mismatch(f"one output B x {count or 'N'} x (5+classes)", shapes)
    return shape[2] - BEFORE_CLASSES


def confident(rows: Array, threshold: float) -> npt.NDArray[np.intp]:
    """Which rows (N x K) have an objectness of the threshold or more."""
    return np.flatnonzero(rows[:, 4] >= threshold)


def promising(scores: Array, sigmoid: bool, threshold: float) -> npt.NDArray[np.intp]:
    """Which predictions of a network without objectness can pass a threshold.

    Args:
        scores: N x C, left as they are.
        sigmoid: Whether they still need it.
        threshold: Lowest best score of interest.
    """
    best = np.array(scores.max(axis=1), np.float32)
    if sigmoid:  # grows with its argument, so the best stays the best
        sigmoid_(best)
    return np.flatnonzero(best >= threshold)


def sigmoid_(values: Array) -> None:
    """The logistic function in place; exp(-x) overflows to infinity, which is the right zero."""
    with np.errstate(over="ignore"):
        np.negative(values, out=values)
        np.exp(values, out=values)
        values += 1
        np.reciprocal(values, out=values)


def mismatch(wanted: str, shapes: Sequence[Shape]) -> ModelError:
    """The error for a network that gives something else than its decoding takes."""
    have = ", ".join(" x ".join(map(str, shape)) for shape in shapes) or "nothing"
    return ModelError(
        f"decoding: needs {wanted}, the network gave {have}; check the model's options"
    )


def shapes_of(outputs: Sequence[Array]) -> list[Shape]:
    """The shapes of some arrays."""
    return [output.shape for output in outputs]
