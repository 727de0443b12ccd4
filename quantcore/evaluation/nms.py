"""Non-maximum suppression as YOLOv5 and YOLOv7 do it when they validate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from quantcore.ir.decoding import LIMITS, Limits
from quantcore.ir.model import Array

#: Only so many best-scored boxes of an image compete.
MAX_CANDIDATES = 30_000

#: Pixels; a broken network's boxes beyond would spoil the arithmetic for the sound ones.
FAR = 1e6


def nms(decoded: Array | Iterable[Array], limits: Limits = LIMITS) -> list[Array]:
    """Keeps the best boxes of each image.

    A box counts once for every class whose score (objectness times class score) is over the
    threshold; boxes suppress others of their own class only. Boxes without an area, and numbers
    that are no pixels (NaN, a million), are dropped. Equal scores keep the predictions' order.

    Args:
        decoded: B x N x (5+C), or n x (5+C) for each image: center x, center y, width, height in
            network pixels, objectness, class scores.
        limits: Scores must be greater than `conf`; boxes that overlap a better one by more than
            `iou` are suppressed; at most `detections` are left for an image.

    Returns:
        For each image n x 6, best first: x1, y1, x2, y2 in network pixels, score, class index.
    """
    return [suppress(passing(rows, limits.conf), limits) for rows in decoded]


def passing(rows: Array, conf: float) -> Array:
    """Every (box, class) of some rows over the threshold, n x 6 as `nms` returns it, best first."""
    extent = rows[:, 2:4]
    sound = (rows[:, 4] > conf) & (np.abs(rows[:, :4]) < FAR).all(1) & (extent > 0).all(1)
    rows = rows[sound]
    scores = rows[:, 5:] * rows[:, 4:5]
    box, label = np.nonzero(scores > conf)
    score = scores[box, label]
    best = np.argsort(-score, kind="stable")[:MAX_CANDIDATES]
    box, label = box[best], label[best]
    half = rows[box, 2:4] / 2
    corners = rows[box, :2] - half, rows[box, :2] + half
    return np.column_stack((*corners, score[best], label)).astype(np.float32, copy=False)


def suppress(candidates: Array, limits: Limits) -> Array:
    """Greedy suppression by class of candidates (n x 6) that come best first."""
    # What survives among the first n does not depend on the rest. Trying growing prefixes ends
    # early in crowds, where OpenCV's cost is the square of a class's survivors. On COCO the first
    # prefix suffices for nearly every image; starting with a quarter of it costs 1.7 x as much.
    prefix = 8 * limits.detections
    while True:
        head = candidates[:prefix]
        kept = head[_survivors(head, limits.iou)][: limits.detections]
        if len(kept) == limits.detections or prefix >= len(candidates):
            return kept
        prefix *= 4


def _survivors(
    candidates: Array, iou_threshold: float
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Rows that no better one of their class suppresses, in order."""
    if not len(candidates):
        return np.empty(0, np.intp)
    boxes = candidates[:, :4].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    scores, labels = candidates[:, 4].copy(), candidates[:, 5]
    order = np.argsort(labels, kind="stable")
    ends = np.flatnonzero(np.diff(labels[order])) + 1
    kept = []
    for rows in np.split(order, ends):
        alive: Sequence[int] = (0,)
        if len(rows) > 1:
            alive = cv2.dnn.NMSBoxes(boxes[rows], scores[rows], 0.0, iou_threshold)  # type: ignore[arg-type]
        kept.append(rows[np.asarray(alive, np.intp)])
    return np.sort(np.concatenate(kept))
