"""Classification: the class of a whole image, by how often it is the best or among the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from quantcore.data.dataset import Dataset
from quantcore.data.folders import FolderDataset
from quantcore.data.letterbox import Placement
from quantcore.errors import DataError, UsageError
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.tasks.task import Scores, Task
from quantcore.ir.model import Array, FloatModel
from quantcore.results.estimate import Floats
from quantcore.results.evaluation import ClassificationResult
from quantcore.results.metric import TOP, Metric
from quantcore.runtime.progress import Progress

_BEST = 5


class Classification(Task):
    """See Task."""

    name: ClassVar[str] = "classification"
    metric: ClassVar[Metric] = TOP

    def check(self, dataset: Dataset, class_names: Sequence[str]) -> tuple[int, ...]:
        """See Task."""
        return _with_classes(dataset).check_classes(class_names)

    def classes(self, dataset: Dataset, model: FloatModel) -> Mapping[int, int]:
        """See Task."""
        if not getattr(model.decoding, "softmax", False):
            raise UsageError(
                f"`labels` need logits, and {model.name} ends in probabilities; leave `labels` out "
                "of the recipe"
            )
        indices = {category: n for n, category in enumerate(self.check(dataset, model.class_names))}
        return {image: indices[label] for image, label in _with_classes(dataset).labels.items()}

    def place(
        self, found: Sequence[Array], placements: Sequence[Placement], model: FloatModel
    ) -> None:
        """See Task: the class of an image lies nowhere in it."""

    def predictions(
        self, by_image: Mapping[int, Array], category_ids: tuple[int, ...]
    ) -> Predictions:
        """See Task."""
        return Predictions(by_image, category_ids)

    def score(
        self, dataset: Dataset, predictions: Predictions, implementation: str = "hotcoco"
    ) -> Scores:
        """See Task."""
        labelled = _with_classes(dataset)
        rank = _ranks(labelled, predictions)
        labels = np.asarray([labelled.labels[i] for i in _order(labelled, predictions)])
        names = {category.id: category.name for category in labelled.categories}
        per_class = {name: _share(rank[labels == i] < 1) for i, name in names.items()}
        return Scores({"top1": _share(rank < 1), "top5": _share(rank < _BEST)}, per_class)

    def result(self, scores: Scores, **about: Any) -> ClassificationResult:
        """See Task."""
        return ClassificationResult(**{**scores.figures, **about}, per_class=scores.per_class)

    def resampled(
        self,
        dataset: Dataset,
        predictions: Predictions,
        weights: Floats,
        progress: Progress | None = None,
    ) -> Floats:
        """See Task: a mean over the images that were drawn."""
        right = _ranks(_with_classes(dataset), predictions) < 1
        with np.errstate(invalid="ignore"):
            found: Floats = weights @ right.astype(np.float64) / weights.sum(axis=1)
        return found

    def agreement(self, reference: Array, other: Array) -> tuple[float, float]:
        """Twice the probability that both give the same classes, and the sum of all that both give.

        Where the scores are probabilities, that is 1 less the total variation distance of the two;
        of scores that add up to something else, a soft Dice coefficient, as of detections.
        """
        mine, theirs = (np.nan_to_num(scores.astype(np.float64)) for scores in (reference, other))
        return 2 * float(np.minimum(mine, theirs).sum()), float(mine.sum() + theirs.sum())


def _with_classes(dataset: Dataset) -> FolderDataset:
    if not isinstance(dataset, FolderDataset):
        raise DataError(
            f"{dataset.source}: holds {dataset.holds}, and the model says what a whole image "
            "shows; give a folder for each class: ROOT/SPLIT/CLASS/*.jpg"
        )
    return dataset


def _order(dataset: FolderDataset, predictions: Predictions) -> list[int]:
    """The images that were run, in the data set's order."""
    found = predictions.by_image.keys()
    ids = [image.id for image in dataset.images if image.id in found]
    if len(ids) != len(found):
        unknown = min(found - set(ids))
        raise DataError(f"{dataset.source}: no image {unknown}, but it is said what it shows")
    return ids


def _ranks(dataset: FolderDataset, predictions: Predictions) -> Floats:
    """How many classes score better than the right one in each image, in the data set's order.

    Equal scores keep the classes' order; what is no number is worse than any.
    """
    index = {category: n for n, category in enumerate(predictions.category_ids)}
    found = []
    for image in _order(dataset, predictions):
        scores = predictions.by_image[image]
        right = index[dataset.labels[image]]
        mine = scores[right]
        better = np.count_nonzero(scores > mine) + np.count_nonzero(scores[:right] == mine)
        found.append(float(better) if np.isfinite(mine) else np.inf)
    return np.asarray(found, np.float64)


def _share(hits: npt.NDArray[np.bool_]) -> float | None:
    return float(np.mean(hits)) if len(hits) else None
