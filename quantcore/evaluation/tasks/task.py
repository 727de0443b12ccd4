"""What the evaluator and the studies ask of any task."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from quantcore.data.dataset import Dataset
from quantcore.data.letterbox import Placement
from quantcore.errors import UsageError
from quantcore.evaluation.detections import Predictions
from quantcore.ir.model import Array, FloatModel
from quantcore.results.estimate import DRAWS, FigureDraws, Floats, draws
from quantcore.results.evaluation import Accuracy
from quantcore.results.metric import Metric
from quantcore.runtime.progress import Progress


@dataclass(frozen=True)
class Scores:
    """What a metric says.

    Attributes:
        figures: By the names of `Metric.figures`; None without ground truth.
        per_class: The main figure by category name, in the order of category ids.
    """

    figures: Mapping[str, float | None]
    per_class: Mapping[str, float | None]


class Task(ABC):
    """How what is found in images is scored; has no state, so that jobs can carry it.

    Attributes:
        name: What decodings call it.
        metric: What its figures are called.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]

    @abstractmethod
    def check(self, dataset: Dataset, class_names: Sequence[str]) -> tuple[int, ...]:
        """The category id of each of a model's classes; see `Dataset.check_classes`.

        Raises:
            DataError: The labels are for another task, or of other classes.
        """

    def classes(self, dataset: Dataset, model: FloatModel) -> Mapping[int, int]:
        """The class index of each image, for a network to be trained on.

        Raises:
            UsageError: Images of this task show more than one thing, or the network's scores are no
                logits.
            DataError: The labels are for another task, or of other classes.
        """
        raise UsageError(f"`labels` are for classifiers; {model.name} is for {self.name}")

    @abstractmethod
    def place(
        self, found: Sequence[Array], placements: Sequence[Placement], model: FloatModel
    ) -> None:
        """Brings what a decoding found in a batch to the original images, in place.

        Args:
            found: From `Decoding.detect`.
            placements: Where each image lies in the network input.
            model: What it was found with.

        Raises:
            ModelError: The network found what the model does not name.
        """

    @abstractmethod
    def predictions(
        self, by_image: Mapping[int, Array], category_ids: tuple[int, ...]
    ) -> Predictions:
        """What was found in some images, all together."""

    @abstractmethod
    def score(
        self, dataset: Dataset, predictions: Predictions, implementation: str = "hotcoco"
    ) -> Scores:
        """Scores what was found against the ground truth of the same images.

        Args:
            dataset: The ground truth.
            predictions: Its images, and no others, are evaluated.
            implementation: Of the COCO metric; see `quantcore.evaluation.coco.score`.

        Raises:
            DataError: The data set has not these images or no such labels.
        """

    @abstractmethod
    def result(self, scores: Scores, **about: Any) -> Accuracy:
        """Scores as a person is given them.

        Args:
            scores: From `score`.
            about: The other fields of `Accuracy`.
        """

    @abstractmethod
    def resampled(
        self,
        dataset: Dataset,
        predictions: Predictions,
        weights: Floats,
        progress: Progress | None = None,
    ) -> Floats:
        """The main figure under each row of weights.

        Args:
            dataset: The ground truth.
            predictions: Its images are those that are scored.
            weights: Draws x images, how often each image counts; images in the data set's order.
            progress: Where to report.

        Returns:
            One figure a draw; NaN where there is nothing to measure it on.
        """

    @abstractmethod
    def agreement(self, reference: Array, other: Array) -> tuple[float, float]:
        """What two predictions for an image have in common, and the most that it can be.

        Needs no labels; the two are equal only for equal predictions.
        """

    def agreements(
        self, reference: Predictions, other: Predictions, images: Sequence[int]
    ) -> Floats:
        """`agreement` for each of the images, n x 2."""
        pairs = [self.agreement(reference.by_image[i], other.by_image[i]) for i in images]
        return np.asarray(pairs, np.float64).reshape(-1, 2)

    def draws(
        self,
        dataset: Dataset,
        predictions: Predictions,
        count: int = DRAWS,
        progress: Progress | None = None,
    ) -> FigureDraws:
        """The main figure on the images that were run, and on `count` draws of them."""
        found = predictions.by_image.keys()
        ids = [image.id for image in dataset.images if image.id in found]
        values = self.resampled(dataset, predictions, draws(len(ids), count), progress)
        digest = hashlib.sha256(repr(ids).encode()).hexdigest()
        return FigureDraws(digest, tuple(float(value) for value in values), self.metric.name)
