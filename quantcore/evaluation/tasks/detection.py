"""Detection: boxes against boxes, by the COCO metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from quantcore.data.boxes import BoxDataset
from quantcore.data.dataset import Dataset
from quantcore.data.letterbox import Placement
from quantcore.errors import DataError, ModelError
from quantcore.evaluation.coco import score
from quantcore.evaluation.detections import Detections, Predictions
from quantcore.evaluation.losses import agreement
from quantcore.evaluation.resample import Matches
from quantcore.evaluation.tasks.task import Scores, Task
from quantcore.ir.model import Array, FloatModel
from quantcore.results.estimate import Floats
from quantcore.results.evaluation import DetectionResult
from quantcore.results.metric import COCO, Metric
from quantcore.runtime.progress import Progress


class Detection(Task):
    """See Task."""

    name: ClassVar[str] = "detection"
    metric: ClassVar[Metric] = COCO

    def check(self, dataset: Dataset, class_names: Sequence[str]) -> tuple[int, ...]:
        """See Task."""
        return _with_boxes(dataset).check_classes(class_names)

    def place(
        self, found: Sequence[Array], placements: Sequence[Placement], model: FloatModel
    ) -> None:
        """See Task."""
        for kept, placement in zip(found, placements, strict=True):
            if len(kept) and kept[:, 5].max() >= len(model.class_names):
                raise ModelError(
                    f"{model.name}: the network found a class {int(kept[:, 5].max())}, the model "
                    f"names 0 to {len(model.class_names) - 1}; give the names of all its classes"
                )
            kept[:, :4] = placement.to_original(kept[:, :4])

    def predictions(
        self, by_image: Mapping[int, Array], category_ids: tuple[int, ...]
    ) -> Detections:
        """See Task."""
        return Detections(by_image, category_ids)

    def score(
        self, dataset: Dataset, predictions: Predictions, implementation: str = "hotcoco"
    ) -> Scores:
        """See Task."""
        found = score(_with_boxes(dataset), _boxes(predictions), implementation)
        return Scores(found.figures, found.per_class)

    def result(self, scores: Scores, **about: Any) -> DetectionResult:
        """See Task."""
        return DetectionResult(**{**scores.figures, **about}, per_class=scores.per_class)

    def resampled(
        self,
        dataset: Dataset,
        predictions: Predictions,
        weights: Floats,
        progress: Progress | None = None,
    ) -> Floats:
        """See Task."""
        return Matches(_with_boxes(dataset), _boxes(predictions)).score(weights, progress)

    def agreement(self, reference: Array, other: Array) -> tuple[float, float]:
        """See `quantcore.evaluation.losses.agreement`."""
        return agreement(reference, other)


def _with_boxes(dataset: Dataset) -> BoxDataset:
    if not isinstance(dataset, BoxDataset):
        raise DataError(
            f"{dataset.source}: holds {dataset.holds}, and the model is a detector, which needs "
            "boxes to be evaluated; give COCO's layout, an annotation file, a data.yaml or Pascal "
            "VOC's layout"
        )
    return dataset


def _boxes(predictions: Predictions) -> Detections:
    return Detections(predictions.by_image, predictions.category_ids)
