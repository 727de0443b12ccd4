"""What graphs lose on the images that choose, image by image, so that any half can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from quantcore.analysis.scoring import labels_key
from quantcore.contracts.engine import EngineOptions
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.errors import DataError
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.jobs import Found, RunSettings, graphs_job
from quantcore.evaluation.losses import shares
from quantcore.evaluation.tasks import Task, task_of
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Evaluation
from quantcore.results.estimate import Estimate, Floats, draws
from quantcore.runtime.jobs import Runtime, at_hand
from quantcore.runtime.keys import content_key
from quantcore.runtime.progress import Progress

#: Of what kept losses mean; a change of it makes all that is on disk obsolete.
REVISION = 1

#: Bootstrap draws of the images, and how often they are parted into halves.
DRAWS, HALVES = 200, 40


def weights_of(images: int, seed: int = 0) -> Floats:
    """How often each image counts: the images as they are, draws of them, halves and the others.

    Returns:
        (1 + DRAWS + 2 HALVES) x images; of the last rows, each second is what its half leaves.
    """
    random = np.random.default_rng([seed, 2])
    halves = np.zeros((2 * HALVES, images))
    for row in range(0, len(halves), 2):
        picks = random.permutation(images)[: images // 2]
        halves[row, picks] = 1
        halves[row + 1] = 1 - halves[row]
    return np.concatenate([draws(images, DRAWS, seed), halves])


@dataclass(frozen=True)
class Drawn:
    """What one graph loses of what the float network finds, and its main figure; see `Judged`."""

    lost: Floats
    figure: Floats


@dataclass(frozen=True)
class Judged:
    """What a recipe loses; means over its graphs.

    Attributes:
        graphs: How many.
        lost: Share of the float network's detections (or classes), under the rows of `weights_of`.
        drop: The float network's main figure less the recipe's, likewise; NaN without labels.
        step: What one image more or less is to a main figure that counts images, else 0. Where few
            images change sides, or none, their draws scatter by less than the next image would.
    """

    graphs: int
    lost: Floats
    drop: Floats
    step: float = 0.0

    @property
    def lost_estimate(self) -> Estimate:
        """With its interval over the images."""
        return Estimate.of(self.lost[: 1 + DRAWS])

    @property
    def drop_estimate(self) -> Estimate:
        """Likewise."""
        return Estimate.of(self.drop[: 1 + DRAWS])

    @property
    def deviation(self) -> float:
        """Standard deviation of the drop over the draws of the images."""
        if not np.isfinite(self.drop[0]):
            return np.nan
        return float(np.hypot(np.nanstd(self.drop[1 : 1 + DRAWS]), self.step))


def mean(judged: Sequence[Judged]) -> Judged:
    """What some graphs that stand for one recipe lose."""
    lost, drop = (np.mean([getattr(j, name) for j in judged], axis=0) for name in ("lost", "drop"))
    return Judged(sum(j.graphs for j in judged), lost, drop, judged[0].step)


class Judge:
    """Runs graphs on some images with one engine, and holds them against the float network there.

    Args:
        model: The float model.
        dataset: With labels, or without.
        images: To judge by.
        how: The engine and its options.
        runtime: Where it is done and kept.
    """

    def __init__(
        self,
        model: FloatModel,
        dataset: Dataset,
        images: Sequence[ImageFile],
        how: Evaluation,
        runtime: Runtime,
    ) -> None:
        self.model, self.how, self.images = model, how, tuple(images)
        self._dataset, self._runtime = dataset.only([i.id for i in images]), runtime
        self._task = task_of(model)
        self._categories = self._labels()
        self._reference = self.found(model, [model.proto], "float network", how.options)[0]
        self._float = self._scored(self._reference)

    @property
    def labelled(self) -> bool:
        """Whether the main figure can be measured."""
        return self._categories is not None

    @property
    def float_figure(self) -> Estimate:
        """The float network's main figure."""
        return Estimate.of(self._float.figure[: 1 + DRAWS])

    @property
    def float_predictions(self) -> Predictions:
        """What the float network finds."""
        return self._reference[1]

    def _labels(self) -> tuple[int, ...] | None:
        ids = [image.id for image in self.images]
        if not self._dataset.labelled(ids):
            return None
        try:
            return self._task.check(self._dataset, self.model.class_names)
        except DataError:
            return None

    def each(
        self,
        model: FloatModel,
        graphs: Sequence[onnx.ModelProto],
        what: str,
        options: EngineOptions | None = None,
    ) -> list[Judged]:
        """What each of some graphs loses.

        Args:
            model: Whose graphs they are: the float model, or what a rewrite made of it.
            graphs: One or more.
            what: A few words for the progress.
            options: How they are run; the engine's own options by default.

        Raises:
            EngineError: The engine refuses a graph.
        """
        found = self.found(model, graphs, what, options or self.how.options)
        scored = (self._scored(one) for one in found)
        step = 1 / len(self.images) if self._task.metric.counts_images else 0.0
        return [Judged(1, one.lost, self._float.figure - one.figure, step) for one in scored]

    def mean(
        self,
        model: FloatModel,
        graphs: Sequence[onnx.ModelProto],
        what: str,
        options: EngineOptions | None = None,
    ) -> Judged:
        """What some graphs lose in the mean; see `each`."""
        return mean(self.each(model, graphs, what, options))

    def found(
        self,
        model: FloatModel,
        graphs: Sequence[onnx.ModelProto],
        what: str,
        options: EngineOptions,
    ) -> list[tuple[str, Predictions]]:
        """What each graph finds, under the key of it; see `each`."""
        running = RunSettings(
            engine=self.how.engine,
            options=options,
            batch_size=model.batch_size or self.how.batch_size,
        )
        job = graphs_job(what, model, graphs, self.images, running, self._runtime.progress)
        values: list[Found] = self._runtime.run(job)
        count = len(self.images)
        made = []
        categories = self._categories or tuple(range(len(model.class_names)))
        for number in range(len(graphs)):
            own = slice(number * count, (number + 1) * count)
            each = zip(self.images, values[own], strict=True)
            by_image = {image.id: found.prediction for image, found in each}
            key = content_key([piece.key for piece in job.pieces[own]])
            made.append((key, self._task.predictions(by_image, categories)))
        return made

    def _scored(self, found: tuple[str, Predictions]) -> Drawn:
        key, predictions = found
        reference, expected = self._reference
        labels = labels_key(self._dataset, self.images) if self.labelled else None
        about = (labels, self._categories, reference, key)
        piece = content_key("losses by image", REVISION, *about)
        truth = self._dataset if self.labelled else None
        given = (self._task, truth, expected, predictions, tuple(i.id for i in self.images))
        job = at_hand("scoring", piece, Drawn, _drawn, *given)
        return self._runtime.one(job)


def _drawn(
    task: Task,
    dataset: Dataset | None,
    reference: Predictions,
    found: Predictions,
    order: Sequence[int],
    progress: Progress,
) -> Drawn:
    weights = weights_of(len(order))
    lost = np.clip(1 - shares(task.agreements(reference, found, order), weights), 0, 1)
    if dataset is None:
        return Drawn(lost, np.full(len(weights), np.nan))
    return Drawn(lost, task.resampled(dataset, found, weights))
