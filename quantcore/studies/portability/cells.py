"""The detections of every graph and simulation of a study, and what they score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

import quantcore
from quantcore.analysis.losses import agreements, shares
from quantcore.analysis.resample import map_draws
from quantcore.contracts import registry
from quantcore.data.coco import CocoDataset, CocoImage
from quantcore.evaluation.detections import Detections
from quantcore.ir.decoding import LIMITS
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Evaluation
from quantcore.qdq.placement import Plan
from quantcore.results.estimate import DRAWS, Estimate, MapDraws, draws
from quantcore.results.portability import GRAPH, SIMULATE, Change, place
from quantcore.runtime.keys import content_key
from quantcore.runtime.progress import Progress
from quantcore.runtime.store import Store
from quantcore.runtime.worker import run_apart
from quantcore.studies.portability.work import Task, on_engine, on_simulation
from quantcore.studies.prefix import fingerprint
from quantcore.table.table import TensorRange

_FLOAT = "float"

#: Of what kept detections mean; a change of it makes all that is on disk obsolete.
REVISION = 1

#: Name of a table, and the place where it is run.
Cell = tuple[str, str]


class Cells:
    """Finds detections once, keeps them in a store, and compares them.

    Args:
        model: The float model.
        key: Of the model.
        dataset: The ground truth.
        images: What is run.
        image_keys: Of their files, by image id.
        how: How graphs are run.
        store: Where finished work is kept.
        progress: Where to report.

    Raises:
        DataError: The data set has other classes than the model.
    """

    def __init__(
        self,
        model: FloatModel,
        key: str,
        dataset: CocoDataset,
        images: tuple[CocoImage, ...],
        image_keys: Mapping[int, str],
        how: Evaluation,
        store: Store,
        progress: Progress,
    ) -> None:
        self._model, self._key, self._dataset, self._images = model, key, dataset, images
        self._image_keys, self._how, self._progress = image_keys, how, progress
        self._store = store
        self._category_ids = dataset.check_classes(model.class_names)
        self._engine_versions = sorted(registry.load_engine(how.engine).versions().items())
        self._weights = draws(len(images), DRAWS)
        self._found: dict[Cell, Detections] = {}
        self._draws: dict[Cell, MapDraws] = {}

    def float_model(self) -> Estimate:
        """Runs the float model; its mAP."""
        self.graph(_FLOAT, self._model.proto)
        return self.map(_FLOAT, self._float_place)

    def graph(self, name: str, proto: onnx.ModelProto) -> None:
        """Runs a graph on the engine.

        Raises:
            EngineError: The engine refuses the graph.
        """
        where = place(GRAPH, self._how.engine)
        about = (self._engine_versions, self._how.options, fingerprint(proto))
        task = self._task((GRAPH, self._how.engine, *about))
        job = (task, proto, self._how.engine, self._how.options)
        if task.left(self._store):
            run_apart(on_engine, *job, progress=self._progress, what=f"{name}, {where}")
        self._keep((name, where), task)

    def simulation(
        self,
        name: str,
        backend: str,
        versions: Sequence[tuple[str, str]],
        device: str,
        arithmetic: str,
        plan: Plan,
        ranges: Mapping[str, TensorRange],
    ) -> None:
        """Runs a backend's simulation with the ranges of a table.

        Raises:
            BackendError: The framework failed.
            RangeError: The table lacks a site of the plan.
        """
        where = place(SIMULATE, backend)
        sites = [(site, ranges.get(site.tensor)) for site in plan.sites]
        about = (SIMULATE, backend, versions, device, arithmetic, sites)
        task = self._task(about)
        job = (task, backend, device, arithmetic, plan, ranges)
        if task.left(self._store):
            run_apart(on_simulation, *job, progress=self._progress, what=f"{name}, {where}")
        self._keep((name, where), task)

    def map(self, name: str, where: str) -> Estimate:
        """MAP of a cell that has been run."""
        return self._draws[name, where].estimate

    def map_difference(self, name: str, where: str) -> Estimate:
        """MAP of a cell that has been run, less the float model's."""
        return self._draws[name, where].against(self._draws[_FLOAT, self._float_place])

    def against_float(self, name: str, where: str) -> Change:
        """A cell that has been run against the float model."""
        return self._change((name, where), (_FLOAT, self._float_place))

    def change(self, cell: Cell, reference: Cell) -> Change | None:
        """A cell against another, None where either was not run."""
        if cell not in self._found or reference not in self._found:
            return None
        return self._change(cell, reference)

    def _change(self, cell: Cell, reference: Cell) -> Change:
        order = [image.id for image in self._images]
        pairs = agreements(self._found[reference], self._found[cell], order)
        return Change(
            self._draws[cell].against(self._draws[reference]),
            Estimate.of(shares(pairs, self._weights)),
        )

    @property
    def _float_place(self) -> str:
        return place(GRAPH, self._how.engine)

    def _task(self, about: tuple[object, ...]) -> Task:
        size = self._model.batch_size or self._how.batch_size
        base = content_key(
            "detections", REVISION, quantcore.__version__, self._key, LIMITS, size, about
        )
        keys = tuple(
            content_key(base, self._image_keys[image.id], image.width, image.height)
            for image in self._images
        )
        return Task(self._model, self._images, keys, self._store.path.parent, size)

    def _keep(self, cell: Cell, task: Task) -> None:
        found = task.detections(self._store, self._category_ids)
        self._found[cell] = found
        self._draws[cell] = map_draws(self._dataset, found, progress=self._progress)
