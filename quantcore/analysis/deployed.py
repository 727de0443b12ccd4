"""Detections at the fixed thresholds that people deploy with: precision, recall, F1, shifts.

mAP counts every threshold. Who deploys a detector takes one, and a quantized graph whose scores all
sink a little loses boxes there while its mAP stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantcore.data.boxes import BoxDataset
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.matching import matches
from quantcore.ir.model import Array
from quantcore.results.estimate import DRAWS, Estimate, Floats, draws
from quantcore.results.evidence import Point, Shift

#: Scores above which boxes are counted.
THRESHOLDS = (0.1, 0.25, 0.5, 0.75)

#: The one that most deployments take.
USUAL = 0.25

#: A box with so much of itself inside a crowd of its class is neither right nor wrong.
_IN_CROWD = 0.5


@dataclass(frozen=True)
class Truth:
    """The objects of an image: n x 6 boxes with class indices, and crowds."""

    objects: Array
    crowds: Array


def truths(dataset: BoxDataset, predictions: Predictions) -> dict[int, Truth]:
    """The objects of each image that was run, under the model's class indices."""
    index = {category: n for n, category in enumerate(predictions.category_ids)}
    rows: dict[int, dict[bool, list[tuple[float, ...]]]] = {
        image: {False: [], True: []} for image in predictions.by_image
    }
    ran = [image for image in dataset.images if image.id in rows]
    for label in dataset.annotations_of(ran):
        if label.category_id in index:
            x, y, w, h = label.bbox
            row = (x, y, x + w, y + h, 1.0, index[label.category_id])
            rows[label.image_id][label.iscrowd].append(row)
    return {image: Truth(_boxes(own[False]), _boxes(own[True])) for image, own in rows.items()}


def _boxes(rows: Sequence[tuple[float, ...]]) -> Array:
    return np.asarray(rows, np.float32).reshape(-1, 6)


@dataclass(frozen=True)
class Counts:
    """Thresholds x images x (right, wrong, missed)."""

    values: Floats

    def at(self, number: int) -> Floats:
        """Right boxes less wrong ones of each image, at one threshold."""
        return np.asarray(self.values[number, :, 0] - self.values[number, :, 1])


def count(predictions: Predictions, truth: Mapping[int, Truth]) -> Counts:
    """Counts boxes at each of `THRESHOLDS`.

    Matching the best-scored box first, what is matched above a threshold does not depend on what
    lies below it: one matching serves all thresholds.
    """
    found = np.zeros((len(THRESHOLDS), len(truth), 3))
    for number, (image, there) in enumerate(truth.items()):
        boxes = predictions.by_image[image]
        right = matches(boxes, there.objects) >= 0
        counted = right | ~_in_crowd(boxes, there.crowds)
        for row, threshold in enumerate(THRESHOLDS):
            above = boxes[:, 4] > threshold
            hits = int((above & right).sum())
            wrong = int((above & counted & ~right).sum())
            found[row, number] = hits, wrong, len(there.objects) - hits
    return Counts(found)


def _in_crowd(boxes: Array, crowds: Array) -> npt.NDArray[np.bool_]:
    """Which boxes lie in a crowd of their class."""
    if not len(crowds) or not len(boxes):
        return np.zeros(len(boxes), bool)
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:4], crowds[None, :, 2:4])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = np.maximum((boxes[:, 2:4] - boxes[:, :2]).prod(-1), 1e-9)
    inside = (shared / area[:, None] >= _IN_CROWD) & (boxes[:, 5, None] == crowds[None, :, 5])
    return np.asarray(inside.any(1))


def points(counts: Counts, reference: Counts | None = None) -> tuple[Point, ...]:
    """Precision, recall and F1 with their intervals; F1 also against the float model's."""
    weights = draws(counts.values.shape[1], DRAWS)
    found = []
    for number, threshold in enumerate(THRESHOLDS):
        precision, recall, f1 = _figures(weights @ counts.values[number])
        change = None
        if reference is not None:
            change = Estimate.of(f1 - _figures(weights @ reference.values[number])[2])
        found.append(
            Point(
                confidence=threshold,
                precision=Estimate.of(precision),
                recall=Estimate.of(recall),
                f1=Estimate.of(f1),
                f1_difference=change,
            )
        )
    return tuple(found)


def _figures(totals: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each row of right, wrong and missed; NaN of nothing."""
    right, wrong, missed = totals.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            right / (right + wrong),
            right / (right + missed),
            2 * right / (2 * right + wrong + missed),
        )


def shift(reference: Predictions, other: Predictions, confidence: float = USUAL) -> Shift | None:
    """How the scores of the float model's boxes change; None where it has none above."""
    differences: list[float] = []
    boxes = lost = gained = 0
    for image, mine in reference.by_image.items():
        theirs = other.by_image[image]
        clear = mine[mine[:, 4] > confidence]
        pairs = matches(clear, theirs)
        boxes += len(clear)
        kept = pairs[pairs >= 0]
        differences += (theirs[kept, 4] - clear[pairs >= 0, 4]).tolist()
        lost += len(clear) - int((theirs[kept, 4] > confidence).sum())
        bright = theirs[theirs[:, 4] > confidence]
        gained += int((matches(bright, clear) < 0).sum())
    if not differences:
        return None
    low, high = np.quantile(differences, (0.05, 0.95))
    return Shift(
        confidence=confidence,
        boxes=boxes,
        matched=len(differences),
        mean=float(np.mean(differences)),
        low=float(low),
        high=float(high),
        lost=lost,
        gained=gained,
    )
