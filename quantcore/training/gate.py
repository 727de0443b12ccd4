"""Whether a trained graph is better than one that was only calibrated.

A single graph on few images says nothing: two graphs that hardly differ are up to 0.007 mAP apart
(docs/adr/0001). So both sides are judged by several neighbouring graphs, on images that neither
saw, by detections lost against the float model and by mAP where there are labels, paired by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import onnx

from quantcore.analysis.neighbours import neighbours
from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.errors import DataError
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.evaluator import detect
from quantcore.evaluation.losses import shares
from quantcore.evaluation.tasks import task_of
from quantcore.ir.model import FloatModel
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan
from quantcore.results.estimate import DRAWS, Estimate, Floats, draws
from quantcore.results.training import Verdict
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable


@dataclass(frozen=True)
class Side:
    """One of the two: a model and its table.

    Attributes:
        model: The float model.
        plan: What of it is quantized.
        table: Its ranges.
    """

    model: FloatModel
    plan: Plan
    table: CalibrationTable

    def graphs(self, count: int) -> Iterator[onnx.ModelProto]:
        """Its graph, and those that hardly differ; both sides move alike."""
        for table in (self.table, *neighbours(self.table, count)):
            yield insert(self.model, self.plan, table).proto


@dataclass(frozen=True)
class Scores:
    """Of a graph: on the images as they are, then under each draw of them.

    Attributes:
        lost: Share of the float model's detections that it loses.
        figure: The task's main figure; NaN without labels.
    """

    lost: Floats
    figure: Floats


def mean(found: Sequence[Scores]) -> Scores:
    """The mean of some graphs."""
    lost, figures = (np.mean([getattr(s, n) for s in found], axis=0) for n in ("lost", "figure"))
    return Scores(lost, figures)


class Gate:
    """Judges graphs on some images.

    Args:
        model: The float model that detections are held against.
        dataset: The ground truth.
        images: Of it; neither calibrated nor trained on.
        engine: Runs the graphs.
        progress: Where to report.
    """

    def __init__(
        self,
        model: FloatModel,
        dataset: Dataset,
        images: Sequence[ImageFile],
        engine: EnginePlugin,
        progress: Progress,
    ) -> None:
        self._model, self._task = model, task_of(model)
        self._dataset = dataset
        chosen = {image.id for image in images}
        # In the data set's order, as the metric has them.
        self._images = [image for image in dataset.images if image.id in chosen]
        self._engine = engine
        self._progress = progress
        self._categories = self._labels()
        self._weights = draws(len(self._images), DRAWS)

    def _labels(self) -> tuple[int, ...] | None:
        """The data set's category of each class; None where the images have no labels."""
        if not self._dataset.labelled([image.id for image in self._images]):
            return None
        try:
            return self._task.check(self._dataset, self._model.class_names)
        except DataError:
            return None

    def judge(self, before: Side, after: Side, count: int) -> Verdict:
        """Holds a trained side against one that was only calibrated.

        Args:
            before: The calibrated one.
            after: The trained one.
            count: Neighbouring graphs of each.
        """
        graphs = chain(before.graphs(count), after.graphs(count))
        watched = self._progress.track(graphs, "gate: graphs", 2 * (count + 1))
        found = [self.score(graph) for graph in watched]
        sides = mean(found[: count + 1]), mean(found[count + 1 :])
        return self.verdict(*sides, graphs=count + 1)

    def verdict(self, before: Scores, after: Scores, graphs: int) -> Verdict:
        """What the scores of two sides say, each the mean of so many graphs."""
        return Verdict(
            images=len(self._images),
            graphs=graphs,
            metric=self._task.metric,
            lost=Estimate.of(after.lost),
            lost_before=Estimate.of(before.lost),
            lost_change=Estimate.of(after.lost - before.lost),
            change=Estimate.of(after.figure - before.figure) if self._categories else None,
        )

    def score(self, graph: onnx.ModelProto) -> Scores:
        """What one graph loses of the float model's, and its main figure."""
        found = self._predictions(graph)
        ids = [image.id for image in self._images]
        lost = 1 - shares(self._task.agreements(self._reference, found, ids), self._weights)
        if self._categories is None:
            return Scores(lost, np.full(len(lost), np.nan))
        return Scores(lost, self._task.resampled(self._dataset, found, self._weights))

    @cached_property
    def _reference(self) -> Predictions:
        return self._predictions(self._model.proto)

    def _predictions(self, graph: onnx.ModelProto) -> Predictions:
        by_image = {}
        with self._engine.build(graph, EngineOptions()) as built:
            for batch in detect(built, self._model, self._images):
                by_image.update(batch)
        categories = self._categories or tuple(range(len(self._model.class_names)))
        return self._task.predictions(by_image, categories)
