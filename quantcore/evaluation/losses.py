"""How far detections are from the float model's own, without any labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantcore.ir.model import Array

Pairs = npt.NDArray[np.float64]

#: Boxes of a class that overlap less are different objects.
MATCH_IOU = 0.5


def agreement(reference: Array, other: Array) -> tuple[float, float]:
    """What two sets of detections of an image have in common, and what they could have.

    A soft Dice coefficient (Dice 1945; soft as in V-Net, arXiv:1606.04797) of the two sets: boxes
    of the same class are matched greedily, the best-scored reference first, to the free box that
    overlaps most; a pair has IoU x score x score in common. Scores are squared in the total, so
    that the crowd of hopeless boxes that a low threshold lets pass weighs nothing. Boxes without
    area, which lay beside the image before they were cut off at its border, are left out.

    Args:
        reference: n x 6 as `quantcore.evaluation.nms` gives them, best first.
        other: Likewise.

    Returns:
        Twice what they have in common, and the most that it can be; equal only for equal sets.
    """
    reference, other = _with_area(reference), _with_area(other)
    total = float(np.square(reference[:, 4]).sum() + np.square(other[:, 4]).sum())
    common = 0.0
    for label in np.intersect1d(reference[:, 5], other[:, 5]):
        mine, theirs = reference[reference[:, 5] == label], other[other[:, 5] == label]
        overlap = iou(mine, theirs)
        for row, score in zip(overlap, mine[:, 4], strict=True):
            best = int(row.argmax())
            if row[best] >= MATCH_IOU:
                common += float(row[best] * score * theirs[best, 4])
                overlap[:, best] = 0
    return 2 * common, total


def _with_area(boxes: Array) -> Array:
    found: Array = boxes[(boxes[:, 2:4] > boxes[:, :2]).all(axis=1)]
    return found


def iou(first: Array, second: Array) -> Array:
    """Intersection over union of every box with every other, n x m."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def shares(pairs: Pairs, weights: Pairs) -> Pairs:
    """How much two sets of detections agree, 0..1; 1 where neither has any.

    Args:
        pairs: From `agreements`, images x 2.
        weights: Draws x images, how often each image counts.
    """
    common, total = weights @ pairs[:, 0], weights @ pairs[:, 1]
    return np.divide(common, total, out=np.ones_like(common), where=total > 0)
