"""Detections scored against the ground truth, with the bootstrap of the images: as one job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantcore.analysis.resample import map_draws
from quantcore.data.coco import CocoDataset, CocoImage
from quantcore.evaluation.coco import score
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.jobs import Found
from quantcore.results.estimate import MapDraws
from quantcore.results.evaluation import DetectionResult
from quantcore.runtime.jobs import Job, whole
from quantcore.runtime.keys import content_key
from quantcore.runtime.progress import Progress

#: Of what kept scores mean; a change of it makes all that is on disk obsolete.
REVISION = 1


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Accuracy of one graph on one set of images.

    Attributes:
        detection: COCO's figures, and the time per image.
        draws: The mAP under a bootstrap of the images.
    """

    detection: DetectionResult
    draws: MapDraws


def scores_job(
    what: str,
    dataset: CocoDataset,
    images: Sequence[CocoImage],
    found: Sequence[Found],
    category_ids: tuple[int, ...],
    keys: Sequence[str],
) -> Job[Scored]:
    """Scores what was found on some images.

    Args:
        what: Names the job in errors.
        dataset: The ground truth.
        images: What was run.
        found: What was found on each.
        category_ids: The data set's category id of each class index.
        keys: Of what was found, which the scores depend on.
    """
    key = content_key("scores", REVISION, list(keys), labels_key(dataset, images), category_ids)
    given = (dataset, tuple(images), tuple(found), category_ids)
    return whole(what, key, Scored, _scored, *given, apart=False)


def labels_key(dataset: CocoDataset, images: Sequence[CocoImage]) -> str:
    """A key of the ground truth of some images."""
    numbers = {image.id: number for number, image in enumerate(images)}
    labels = [
        (numbers[a.image_id], a.category_id, a.bbox, a.area, a.iscrowd)
        for a in dataset.annotations
        if a.image_id in numbers
    ]
    return content_key(dataset.categories, [image.id for image in images], labels)


def _scored(
    dataset: CocoDataset,
    images: Sequence[CocoImage],
    found: Sequence[Found],
    category_ids: tuple[int, ...],
    progress: Progress,
) -> Scored:
    boxes = {image.id: one.boxes for image, one in zip(images, found, strict=True)}
    detections = Detections(boxes, category_ids)
    scores = score(dataset, detections)
    milliseconds = (1e3 / len(found)) if found else 0.0
    detection = DetectionResult(
        **scores.figures,
        per_class=scores.per_class,
        images=len(found),
        preprocess_ms=sum(one.preprocess_s for one in found) * milliseconds,
        inference_ms=sum(one.inference_s for one in found) * milliseconds,
        postprocess_ms=sum(one.postprocess_s for one in found) * milliseconds,
    )
    return Scored(detection=detection, draws=map_draws(dataset, detections, progress=progress))
