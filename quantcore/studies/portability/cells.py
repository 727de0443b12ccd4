"""What every graph and simulation of a study finds, and how that scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from quantcore.analysis.scoring import scores_job
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.jobs import Found, RunSettings, graph_job
from quantcore.evaluation.losses import shares
from quantcore.evaluation.tasks import Task, task_of
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Evaluation
from quantcore.results.estimate import DRAWS, Estimate, FigureDraws, draws
from quantcore.results.portability import GRAPH, SIMULATE, Change, place
from quantcore.runtime.jobs import Job, Runtime, at_hand
from quantcore.runtime.keys import content_key
from quantcore.runtime.progress import Progress
from quantcore.studies.portability.work import Simulated, simulation_job

_FLOAT = "float"

#: Of what a kept agreement means; a change of it makes all that is on disk obsolete.
REVISION = 2

#: Name of a table, and the place where it is run.
Cell = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class _Ran:
    """What a cell found."""

    predictions: Predictions
    draws: FigureDraws
    key: str


class DeploymentCells:
    """Runs each cell once, and compares what is found.

    Args:
        model: The float model.
        dataset: The ground truth.
        images: What is run.
        how: How graphs are run.
        runtime: Where it is done and kept.

    Raises:
        DataError: The data set has other classes than the model.
    """

    def __init__(
        self,
        model: FloatModel,
        dataset: Dataset,
        images: tuple[ImageFile, ...],
        how: Evaluation,
        runtime: Runtime,
    ) -> None:
        self._model, self._dataset, self._images = model, dataset, images
        self._how, self._runtime = how, runtime
        self.task = task_of(model)
        self._category_ids = self.task.check(dataset, model.class_names)
        size = model.batch_size or how.batch_size
        self._settings = RunSettings(engine=how.engine, options=how.options, batch_size=size)
        self._ran: dict[Cell, _Ran] = {}

    def float_model(self) -> Estimate:
        """Runs the float model; its main figure."""
        self.graph(_FLOAT, self._model.proto)
        return self.figure(_FLOAT, self._float_place)

    def graph(self, name: str, proto: onnx.ModelProto) -> None:
        """Runs a graph on the engine.

        Raises:
            EngineError: The engine refuses the graph.
        """
        where = place(GRAPH, self._how.engine)
        given = (self._model, proto, self._images, self._settings, None, self._runtime)
        self._run((name, where), graph_job(f"{name}, {where}", *given))

    def simulation(self, name: str, model: FloatModel, how: Simulated) -> None:
        """Runs a backend's simulation with the ranges of a table, and the model that they are of.

        Raises:
            BackendError: The framework failed.
            RangeError: The table lacks a site of the plan.
        """
        where = place(SIMULATE, how.backend)
        given = (model, self._images, how, self._settings, self._runtime.progress)
        self._run((name, where), simulation_job(f"{name}, {where}", *given))

    def figure(self, name: str, where: str) -> Estimate:
        """The main figure of a cell that has been run."""
        return self._ran[name, where].draws.estimate

    def difference(self, name: str, where: str) -> Estimate:
        """The main figure of a cell that has been run, less the float model's."""
        return self._ran[name, where].draws.against(self._ran[_FLOAT, self._float_place].draws)

    def against_float(self, name: str, where: str) -> Change:
        """A cell that has been run against the float model."""
        return self._change((name, where), (_FLOAT, self._float_place))

    def change(self, cell: Cell, reference: Cell) -> Change | None:
        """A cell against another, None where either was not run."""
        if cell not in self._ran or reference not in self._ran:
            return None
        return self._change(cell, reference)

    def _change(self, cell: Cell, reference: Cell) -> Change:
        one, other = self._ran[cell], self._ran[reference]
        order = tuple(image.id for image in self._images)
        key = content_key("agreement", REVISION, self.task.name, one.key, other.key, order)
        given = (self.task, one.predictions, other.predictions, order)
        what = f"{cell[0]}, {cell[1]}, against {reference[0]}"
        agreement = self._runtime.one(at_hand(what, key, Estimate, _agree, *given))
        return Change(one.draws.against(other.draws), agreement, self.task.metric)

    @property
    def _float_place(self) -> str:
        return place(GRAPH, self._how.engine)

    def _run(self, cell: Cell, job: Job[Any]) -> None:
        found: list[Found] = self._runtime.run(job)
        keys = [piece.key for piece in job.pieces]
        given = (self.task, self._dataset, self._images, found, self._category_ids, keys)
        scored = self._runtime.one(scores_job(job.what, *given))
        by_image = {image.id: f.prediction for image, f in zip(self._images, found, strict=True)}
        self._ran[cell] = _Ran(
            predictions=self.task.predictions(by_image, self._category_ids),
            draws=scored.draws,
            key=content_key(keys),
        )


def _agree(
    task: Task,
    found: Predictions,
    reference: Predictions,
    order: Sequence[int],
    progress: Progress,
) -> Estimate:
    pairs = task.agreements(reference, found, order)
    return Estimate.of(shares(pairs, draws(len(order), DRAWS)))
