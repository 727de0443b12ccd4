"""The COCO metric, by hotcoco or by the reference implementation, on exactly the images run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.data.boxes import BoxDataset
from quantcore.errors import DataError
from quantcore.evaluation.detections import Detections
from quantcore.results.metric import COCO


@dataclass(frozen=True)
class CocoScores:
    """What the COCO metric says.

    Attributes:
        figures: The twelve figures by the names of `COCO.figures`; None without ground truth.
        per_class: AP over IoU 0.50:0.95 by category name, in the order of category ids.
    """

    figures: dict[str, float | None]
    per_class: dict[str, float | None]


def score(
    dataset: BoxDataset, detections: Detections, implementation: str = "hotcoco"
) -> CocoScores:
    """Scores detections against the ground truth of the same images.

    Args:
        dataset: The ground truth.
        detections: Its images, and no others, are evaluated.
        implementation: `hotcoco` (fast) or `pycocotools` (the reference).

    Raises:
        DataError: An implementation that is unknown or not installed, or an image that the data
            set does not have.
    """
    if implementation not in _IMPLEMENTATIONS:
        known = ", ".join(_IMPLEMENTATIONS)
        raise DataError(f"no COCO metric {implementation!r}; there are {known}")
    truth = ground_truth(dataset, detections)
    # Both libraries print what they do, on either stream.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        evaluation = _IMPLEMENTATIONS[implementation](truth, detections)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {
        name: _figure(value) for name, value in zip(COCO.figures, evaluation.stats, strict=True)
    }
    return CocoScores(figures, _per_class(dataset, evaluation))


def ground_truth(dataset: BoxDataset, detections: Detections) -> dict[str, Any]:
    """What is known of the images run, in the format of COCO's annotation files.

    Raises:
        DataError: There are detections for an image that the data set does not have.
    """
    wanted = detections.by_image.keys()
    images = [i for i in dataset.images if i.id in wanted]
    if len(images) != len(wanted):
        unknown = min(wanted - {i.id for i in images})
        raise DataError(f"{dataset.source}: no image {unknown}, but there are detections for it")
    annotations = dataset.annotations_of(images)
    return {
        "images": [{"id": i.id} for i in images],
        "categories": [{"id": c.id, "name": c.name} for c in dataset.categories],
        # Numbered anew: both libraries take annotation 0 for "no match".
        "annotations": [
            {
                "id": number,
                "image_id": a.image_id,
                "category_id": a.category_id,
                "bbox": list(a.bbox),
                "area": a.area,
                "iscrowd": int(a.iscrowd),
            }
            for number, a in enumerate(annotations, 1)
        ],
    }


def hotcoco_evaluation(truth: dict[str, Any], detections: Detections) -> Any:
    """Hotcoco's COCOeval of some detections, not yet run.

    Args:
        truth: From `ground_truth`.
        detections: Of the same images.
    """
    import hotcoco

    reference = hotcoco.COCO(truth)
    rows = _rows(truth, detections)
    nothing = {**truth, "annotations": []}
    found = reference.load_res(rows) if len(rows) else hotcoco.COCO(nothing)
    return hotcoco.COCOeval(reference, found, "bbox")


def _rows(truth: dict[str, Any], detections: Detections) -> npt.NDArray[np.float64]:
    """Detections of classes that the data set has; hotcoco tells of each other one by itself."""
    rows = detections.to_rows()
    known = [category["id"] for category in truth["categories"]]
    return np.asarray(rows[np.isin(rows[:, 6], known)])


def _pycocotools(truth: dict[str, Any], detections: Detections) -> Any:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise DataError("pycocotools is not installed: pip install pycocotools") from None
    reference, found = COCO(), COCO()
    reference.dataset = {"info": {}, **truth}
    reference.createIndex()
    rows = _rows(truth, detections)
    if len(rows):
        found = reference.loadRes(rows)
    else:
        # loadRes looks at the first detection.
        found.dataset = {"info": {}, **truth, "annotations": []}
        found.createIndex()
    return COCOeval(reference, found, "bbox")


_IMPLEMENTATIONS: dict[str, Callable[[dict[str, Any], Detections], Any]] = {
    "hotcoco": hotcoco_evaluation,
    "pycocotools": _pycocotools,
}


def _figure(value: float) -> float | None:
    """A figure, or None where the libraries' -1 says that there is nothing to measure."""
    return None if value < 0 else float(value)


def _per_class(dataset: BoxDataset, evaluation: Any) -> dict[str, float | None]:
    # IoU threshold x recall x category x area x detections; all areas, 100 detections.
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    names = {category.id: category.name for category in dataset.categories}
    result: dict[str, float | None] = {}
    for index, category_id in enumerate(evaluation.params.catIds):
        values = precision[:, :, index]
        values = values[values > -1]
        result[names[category_id]] = float(values.mean()) if len(values) else None
    return result
