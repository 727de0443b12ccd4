"""Whether a trained graph is better than one that was only calibrated.

A single graph on few images says nothing: two graphs that hardly differ are up to 0.007 mAP apart
(docs/adr/0001). So both sides are judged by several neighbouring graphs, on images that neither
saw, by detections lost against the float model and by mAP where there are labels, paired by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        reference = self._predictions(self._model.proto)
        graphs = chain(before.graphs(count), after.graphs(count))
        watched = self._progress.track(graphs, "gate: graphs", 2 * (count + 1))
        found = [self._scored(reference, graph) for graph in watched]
        lost, maps = (
            np.stack(f).reshape(2, count + 1, -1).mean(1) for f in zip(*found, strict=True)
        )
        return Verdict(
            images=len(self._images),
            graphs=count + 1,
            lost=Estimate.of(lost[1]),
            lost_before=Estimate.of(lost[0]),
            lost_change=Estimate.of(lost[1] - lost[0]),
            map_change=Estimate.of(maps[1] - maps[0]) if self._categories else None,
        )

    def _scored(self, reference: Predictions, graph: onnx.ModelProto) -> tuple[Floats, Floats]:
        """What one graph loses of the float model's, and its main figure, under each draw."""
        found = self._predictions(graph)
        ids = [image.id for image in self._images]
        lost = 1 - shares(self._task.agreements(reference, found, ids), self._weights)
        if self._categories is None:
            return lost, np.full(len(lost), np.nan)
        return lost, self._task.resampled(self._dataset, found, self._weights)

    def _predictions(self, graph: onnx.ModelProto) -> Predictions:
        by_image = {}
        with self._engine.build(graph, EngineOptions()) as built:
            for batch in detect(built, self._model, self._images):
                by_image.update(batch)
        categories = self._categories or tuple(range(len(self._model.class_names)))
        return self._task.predictions(by_image, categories)
