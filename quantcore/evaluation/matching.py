"""Which boxes of one set are in another: what a quantized network lost, and what it made up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantcore.evaluation.losses import MATCH_IOU, iou
from quantcore.ir.model import Array


def matches(reference: Array, other: Array, overlap: float = MATCH_IOU) -> npt.NDArray[np.intp]:
    """For each box the one of the other set that is the same object.

    Boxes of a class are matched greedily, the best-scored reference first, each to the free box
    that overlaps most.

    Args:
        reference: n x 6: x1, y1, x2, y2, score, class.
        other: m x 6.
        overlap: Least intersection over union.

    Returns:
        n indices into `other`; -1 where there is none.
    """
    found = np.full(len(reference), -1, np.intp)
    if not len(other):
        return found
    shared = iou(reference, other)
    shared[reference[:, 5, None] != other[None, :, 5]] = 0
    for row in np.argsort(-reference[:, 4], kind="stable"):
        best = int(shared[row].argmax())
        if shared[row, best] >= overlap:
            found[row] = best
            shared[:, best] = 0
    return found
