"""What a graph loses against the float model: in the main figure, in what it finds, in decibels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from quantcore.analysis.scoring import labels_key
from quantcore.data.dataset import Dataset
from quantcore.evaluation.losses import shares
from quantcore.evaluation.tasks import Task
from quantcore.results.estimate import Estimate, Floats, Loss, draws
from quantcore.runtime.jobs import Runtime, at_hand
from quantcore.runtime.keys import content_key
from quantcore.runtime.progress import Progress
from quantcore.studies.runs import RunOutcome

#: Of what a kept loss means; a change of it makes all that is on disk obsolete.
REVISION = 2


class Scorer:
    """Holds graphs against the float model on the same images.

    Args:
        task: How what is found is scored.
        dataset: The ground truth.
        reference: What the float model finds.
        runtime: Where scores are computed and kept.
        labels: Whether to measure the main figure; where there are none, it cannot be.
        count: Bootstrap draws.
    """

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        reference: RunOutcome,
        runtime: Runtime,
        labels: bool = True,
        count: int = 200,
    ) -> None:
        self._task, self._dataset = task, dataset
        self._reference, self._runtime = reference, runtime
        wanted = reference.predictions.by_image.keys()
        # In the data set's order, as the task has them.
        images = [image for image in dataset.images if image.id in wanted]
        self._order = tuple(image.id for image in images)
        self.labelled = labels and dataset.labelled(wanted)
        self._count = count
        self._about = (REVISION, labels_key(dataset, images), reference.key, self.labelled, count)

    @property
    def float_figure(self) -> Estimate:
        """The main figure of the float model."""
        return Estimate.of(self._float)

    @cached_property
    def _float(self) -> Floats:
        """The main figure of the float model under each draw."""
        if not self.labelled:
            return np.full(self._count + 1, np.nan)
        key = content_key("float figure", *self._about)
        given = (self._task, self._dataset, self._reference, len(self._order), self._count)
        return self._runtime.one(at_hand("scoring", key, Floats, _figure, *given))

    def loss(self, outcome: RunOutcome) -> Loss:
        """What a graph loses."""
        key = content_key("loss", *self._about, outcome.key)
        truth = self._dataset if self.labelled else None
        given = (self._task, truth, self._reference, self._float, outcome, self._order, self._count)
        return self._runtime.one(at_hand("scoring", key, Loss, _loss, *given))


def _figure(
    task: Task, dataset: Dataset, outcome: RunOutcome, images: int, count: int, progress: Progress
) -> Floats:
    return task.resampled(dataset, outcome.predictions, draws(images, count))


def _loss(
    task: Task,
    dataset: Dataset | None,
    reference: RunOutcome,
    float_figure: Floats,
    outcome: RunOutcome,
    order: Sequence[int],
    count: int,
    progress: Progress,
) -> Loss:
    """A graph against the float model; without a data set no main figure."""
    weights = draws(len(order), count)
    nothing = np.full(len(weights), np.nan)
    found = _figure(task, dataset, outcome, len(order), count, progress) if dataset else nothing
    pairs = task.agreements(reference.predictions, outcome.predictions, order)
    agreement = shares(pairs, weights)
    powers = np.asarray([outcome.powers[i] for i in order])
    return Loss(
        Estimate.of(float_figure - found),
        Estimate.of(1 - agreement),
        _decibels(powers[:, 0], powers[:, 1]),
        _decibels(powers[:, 2], powers[:, 3]),
    )


def _decibels(signal: Floats, noise: Floats) -> float:
    """SQNR of the sums over the images that were measured."""
    known = np.isfinite(noise) & np.isfinite(signal)
    if not known.any():
        return float("nan")
    top, bottom = float(signal[known].sum()), float(noise[known].sum())
    if bottom == 0:
        return float("inf")
    return float(10 * np.log10(top / bottom)) if top > 0 else float("-inf")
