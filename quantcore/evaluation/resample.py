"""The COCO metric on resampled images: how much of a difference in mAP is noise."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.data.boxes import BoxDataset
from quantcore.evaluation.coco import ground_truth, hotcoco_evaluation
from quantcore.evaluation.detections import Detections
from quantcore.results.estimate import Floats
from quantcore.runtime.progress import Progress, Silent

#: The recalls at which the COCO metric reads the precision, as its implementations make them.
_RECALLS = np.linspace(0.0, 1.0, 101)

#: IoU 0.50, 0.55 .. 0.95.
_THRESHOLDS = 10

#: Detections x draws that are worked on at a time: memory must not grow with both.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class _Class:
    """The detections of one class over all images, best first.

    Attributes:
        image: Index of each detection's image.
        hit: IoU threshold x detection: matched to an object.
        counts: Likewise: neither matched nor ignored counts as a false alarm.
        objects: Objects in each image.
    """

    image: npt.NDArray[np.intp]
    hit: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.bool_]
    objects: Floats


class Matches:
    """Detections matched with the ground truth once, scored under any weights of the images.

    mAP is no mean over images, so its noise is found by drawing the images anew (Efron's bootstrap)
    and accumulating precision and recall again. Matching, which is slow, is the same each time.

    Args:
        dataset: The ground truth.
        detections: Its images are those that are scored.
    """

    def __init__(self, dataset: BoxDataset, detections: Detections) -> None:
        truth = ground_truth(dataset, detections)
        self._images = {image["id"]: n for n, image in enumerate(truth["images"])}
        present = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
        self._classes = []
        if present:
            found = _matched(truth, detections, sorted(present))
            by_class: dict[int, list[dict[str, Any]]] = {c: [] for c in sorted(present)}
            for entry in found:
                by_class[entry["category_id"]].append(entry)
            self._classes = [self._class(entries) for entries in by_class.values()]

    def _class(self, entries: list[dict[str, Any]]) -> _Class:
        objects = np.zeros(len(self._images))
        images: list[int] = []
        for entry in entries:
            number = self._images[entry["image_id"]]
            objects[number] = sum(not ignored for ignored in entry["gtIgnore"])
            images.extend([number] * len(entry["dtScores"]))
        scores = np.concatenate(
            [np.asarray(e["dtScores"], float) for e in entries] or [np.empty(0)]
        )
        order = np.argsort(-scores, kind="mergesort")
        hit, ignored = (_stacked(entries, key)[:, order] for key in ("dtMatched", "dtIgnore"))
        # Behind the last hit nothing changes the result.
        end = int(np.flatnonzero(hit.any(0))[-1]) + 1 if hit.any() else 0
        hit, ignored = hit[:, :end], ignored[:, :end]
        where = np.asarray(images, np.intp)[order[:end]]
        return _Class(where, hit & ~ignored, ~ignored, objects)

    def score(self, weights: Floats, progress: Progress | None = None) -> Floats:
        """MAP (IoU 0.50:0.95, 100 detections a class and image) under each row of weights.

        Args:
            weights: Draws x images, how often each image counts; images in the order of the
                annotation file.
            progress: Where to report.

        Returns:
            One figure a draw; NaN where a draw has no object at all.
        """
        classes = (progress or Silent()).track(self._classes, "drawing images anew")
        figures = [_average_precision(entry, weights) for entry in classes]
        if not figures:
            return np.full(len(weights), np.nan)
        table = np.stack(figures)
        known = np.isfinite(table)
        total = np.where(known, table, 0).sum(0)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / known.sum(0))


def _stacked(entries: list[dict[str, Any]], key: str) -> npt.NDArray[np.bool_]:
    """Some flags of the detections of all images, IoU threshold x detection."""
    flags = (np.asarray(entry[key], bool).reshape(_THRESHOLDS, -1) for entry in entries)
    return np.concatenate([np.empty((_THRESHOLDS, 0), bool), *flags], axis=1)


def _matched(
    truth: dict[str, Any], detections: Detections, categories: list[int]
) -> list[dict[str, Any]]:
    """Hotcoco's matches by image and class, objects of every size."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        evaluation = hotcoco_evaluation(truth, detections)
        evaluation.params.cat_ids = categories
        evaluation.params.area_rng = [[0.0, 1e10]]
        evaluation.params.area_rng_lbl = ["all"]
        evaluation.evaluate()
        return [entry for entry in evaluation.eval_imgs if entry is not None]


def _average_precision(entry: _Class, weights: Floats) -> Floats:
    """AP of a class, mean over the IoU thresholds, for each row of weights."""
    step = max(1, _BLOCK // max(1, len(entry.image)))
    starts = range(0, len(weights), step)
    # Draws side by side in memory: every running sum then goes over all of them at once.
    blocks = (np.ascontiguousarray(weights[start : start + step].T) for start in starts)
    return np.concatenate([_block_precision(entry, block) for block in blocks])


def _block_precision(entry: _Class, weights: Floats) -> Floats:
    """AP of a class for each column of weights, images x draws.

    Precision at recall r is the best precision at any recall of r or more, r = 0, 0.01 .. 1. Recall
    grows at hits alone and precision is best there, so only hits are looked at.
    """
    objects = entry.objects @ weights
    own = weights[entry.image]
    seen = np.cumsum(own, axis=0)
    result = np.zeros(weights.shape[1])
    for hit, counts in zip(entry.hit, entry.counts, strict=True):
        (at,) = np.nonzero(hit)
        if not len(at):
            continue
        hits = np.cumsum(own[at], axis=0)
        among = seen[at]
        if not counts.all():
            among = among - np.cumsum(np.where(counts[:, None], 0.0, own), axis=0)[at]
        precision = np.divide(hits, among, out=np.zeros_like(hits), where=among > 0)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = hits / np.where(objects > 0, objects, 1.0)
        steps = np.diff(_recalls_reached(recall), axis=0, prepend=0.0)
        result += (best * steps).sum(0) / len(_RECALLS)
    return np.where(objects > 0, result / len(entry.hit), np.nan)


def _recalls_reached(recall: Floats) -> Floats:
    """How many of the recalls 0, 0.01 .. 1 are not above the given one; compared in floats."""
    near = np.rint(recall * (len(_RECALLS) - 1)).astype(np.intp)
    return np.asarray(near + (_RECALLS[near] <= recall), np.float64)
