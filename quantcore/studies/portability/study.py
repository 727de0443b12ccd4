"""The matrix "calibrated with x deployed as", cell by cell, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import quantcore
from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin
from quantcore.contracts.capabilities import (
    Support,
    check_arithmetic,
    check_capabilities,
    check_simulates,
)
from quantcore.data.coco import CocoDataset, CocoImage
from quantcore.errors import CapabilityError, QuantcoreError, UsageError
from quantcore.ir.edits import nudged
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.pipeline import Data, Evaluation, calibrate
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan, plan
from quantcore.report.terminal import estimate
from quantcore.results.portability import (
    GRAPH,
    SIMULATE,
    Change,
    Deployment,
    Lost,
    Pair,
    Portability,
    Recipe,
    TableCost,
    place,
)
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.host import host
from quantcore.runtime.keys import content_key, file_digests, graph_digest
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.store import Store
from quantcore.runtime.worker import run_apart
from quantcore.studies.portability.cells import Cells
from quantcore.studies.portability.pairs import pair
from quantcore.studies.portability.work import layer_errors
from quantcore.studies.runs import PROBED_IMAGES
from quantcore.table.table import CalibrationTable


@dataclass(frozen=True)
class Study:
    """What is studied.

    Attributes:
        model: The float model.
        weights: Where it came from, for the record.
        policies: By name; each is applied with every implementation.
        backends: Backend names.
        implementations: Of `native`, `portable`.
        data: What to calibrate and evaluate on.
        out: Folder for the report, the tables and what is needed to go on after an interruption.
        how: How graphs are evaluated; latency is not measured.
        device: Where frameworks compute.
        arithmetic: What they simulate in, as `SessionOptions.arithmetic`.
        reference: Name of the table that others are held against; None for the first.
    """

    model: FloatModel
    weights: Path
    policies: Mapping[str, CalibrationPolicy]
    backends: tuple[str, ...]
    implementations: tuple[str, ...]
    data: Data
    out: Path
    how: Evaluation
    device: str = "auto"
    arithmetic: str = "float64"
    reference: str | None = None

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Every table that is to be made; those of one policy stand together."""
        return tuple(
            Recipe(backend, name, replace(policy, implementation=implementation))
            for name, policy in self.policies.items()
            for implementation in self.implementations
            if implementation == "portable" or policy.arithmetic != "float64"
            for backend in self.backends
        )


#: Of what kept calibrations mean; a change of it makes all that is on disk obsolete.
REVISION = 1


@dataclass(frozen=True)
class _Kept:
    """A finished calibration: the table's file and what it cost."""

    table: str
    seconds: float
    peak_rss_mb: float
    parity: float


@dataclass(frozen=True)
class _Made:
    """A table under study."""

    cost: TableCost
    table: CalibrationTable
    plan: Plan
    qdq: QdqModel

    @property
    def name(self) -> str:
        return self.cost.recipe.name


def run(
    study: Study,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Portability:
    """Calibrates with every recipe and deploys every table everywhere.

    Whatever is finished is on disk at once: a run that was interrupted goes on where it stopped. A
    backend or cell that fails costs nothing but itself and is named.

    Args:
        study: What is studied.
        progress: Where long work reports.
        say: Is given a line after each step.

    Raises:
        QuantcoreError: Something that can be refused before any work; or the float model fails.
    """
    return _Run(study, progress or Silent(), say).run()


class _Run:
    """A study under way: what is finished so far."""

    def __init__(self, study: Study, progress: Progress, say: Callable[[str], None]) -> None:
        self._study, self._progress, self._say = study, progress, say
        self._made: dict[str, _Made] = {}
        self._cells_run: list[tuple[Recipe, str, str]] = []
        self._unsupported: list[Lost] = []
        self._failures: list[Lost] = []
        ensure_folder(study.out)
        self._plugins: Mapping[str, BackendPlugin] = {
            name: registry.load_backend(name) for name in study.backends
        }
        registry.load_engine(study.how.engine).check(study.how.options)
        self._recipes = self._possible()
        self._simulating = [
            n for n, p in self._plugins.items() if p.capabilities.simulate is not Support.NONE
        ]
        self._store = Store(study.out)
        self._training = CocoDataset.open(study.data.root, study.data.calibration)
        dataset = CocoDataset.open(study.data.root, study.data.evaluation)
        self._images = dataset.select(study.how.images)
        read = [*self._images, *(i for recipe in self._recipes for i in self._shown(recipe))]
        self._image_keys = file_digests((image.path for image in read), progress)
        self._model_key = _model_key(study.model)
        keys = {image.id: self._image_keys[image.path] for image in self._images}
        about = (study.model, self._model_key, dataset, self._images, keys)
        self._cells = Cells(*about, study.how, self._store, progress)

    def _possible(self) -> tuple[Recipe, ...]:
        """The recipes that their backends can honour."""
        study, found = self._study, []
        names = [recipe.name for recipe in study.recipes]
        if study.reference is not None and study.reference not in names:
            raise UsageError(f"no table {study.reference!r} here; there are {', '.join(names)}")
        for recipe in study.recipes:
            sites = plan(study.model, recipe.policy)
            try:
                capabilities = self._plugins[recipe.backend].capabilities
                check_capabilities(recipe.backend, capabilities, sites)
            except CapabilityError as error:
                self._unsupported.append(Lost(recipe.name, "calibration", str(error)))
                self._say(f"{recipe.name}: left out: {error}")
            else:
                found.append(recipe)
        if not found:
            said = [lost.reason for lost in self._unsupported]
            reasons = "; ".join(said or ["arithmetic: float64 is for portable observers alone"])
            raise UsageError(f"no backend can honour any of the policies: {reasons}")
        return tuple(found)

    def _shown(self, recipe: Recipe) -> tuple[CocoImage, ...]:
        """The images that a table is calibrated on."""
        return self._training.select(recipe.policy.images, recipe.policy.seed)

    def run(self) -> Portability:
        """The whole study."""
        study = self._study
        found = self._cells.float_model()
        self._say(f"float on {study.how.engine}: mAP {estimate(found)}")
        steps = len(self._recipes) * (2 + len(self._simulating)) + 1
        self._task = self._progress.start("steps of the study", steps)
        try:
            for recipe in self._recipes:
                self._calibrate(recipe)
            for made in self._made.values():
                self._graph(made)
            for made in self._made.values():
                self._simulations(made)
            names = list(self._made)
            reference = study.reference if study.reference in names else next(iter(names), None)
            floor = self._floor(reference)
        finally:
            self._progress.stop(self._task)
        cells = self._progress.track(self._cells_run, "comparing detections")
        return Portability(
            study.model.name,
            study.weights.name,
            str(study.data.root),
            (study.data.calibration, study.data.evaluation),
            len(self._images),
            study.how.engine,
            study.arithmetic,
            found,
            reference,
            tuple(made.cost for made in self._made.values()),
            tuple(self._deployment(*cell) for cell in cells),
            self._pairs(reference),
            floor,
            tuple(self._unsupported),
            tuple(self._failures),
            host(),
        )

    def _pairs(self, reference: str | None) -> tuple[Pair, ...]:
        """Every two tables, the reference first where it is one of them."""
        ordered = sorted(self._made.values(), key=lambda made: made.name != reference)
        return tuple(
            pair((a.name, b.name), (a.table, b.table), (a.cost.layers_db, b.cost.layers_db))
            for a, b in combinations(ordered, 2)
        )

    def _calibrate(self, recipe: Recipe) -> None:
        """Makes a table and measures its layers, or takes both from the folder."""
        with self._step(recipe.name, "calibration"):
            table, cost = self._table(recipe)
            sites = plan(self._study.model, recipe.policy)
            qdq = insert(self._study.model, sites, table)
            cost = replace(cost, layers_db=self._layers(recipe.name, sites, qdq))
            self._made[recipe.name] = _Made(cost, table, sites, qdq)

    def _table(self, recipe: Recipe) -> tuple[CalibrationTable, TableCost]:
        study, name = self._study, recipe.name
        path = study.out / "tables" / f"{name}.table.json"
        key = content_key(
            "calibration",
            REVISION,
            self._model_key,
            recipe.to_dict(),
            sorted(self._plugins[recipe.backend].versions().items()),
            quantcore.__version__,
            study.device,
            [(image.id, self._image_keys[image.path]) for image in self._shown(recipe)],
        )
        known = self._store.get(key, _Kept)
        if known is not None:
            self._say(f"{name}: table reused")
        else:
            job = (study.model, recipe.policy, recipe.backend, study.data, study.device)
            done = run_apart(calibrate, *job, progress=self._progress, what=name).result
            known = _Kept(done.table.to_json(), done.seconds, done.peak_rss_mb, done.parity)
            self._store.put(key, known)
            self._say(f"{name}: calibrated in {done.seconds:.1f} s")
        write_whole(path, known.table)
        table = CalibrationTable.load(path)
        cost = TableCost(
            recipe,
            str(path.relative_to(study.out)),
            known.seconds,
            known.peak_rss_mb,
            known.parity,
            table.provenance.versions,
        )
        return table, cost

    def _layers(self, name: str, sites: Plan, qdq: QdqModel) -> dict[str, float]:
        layers = tuple(decision.layer for decision in sites.decisions if decision.quantized)
        probed = self._images[:PROBED_IMAGES]
        keys = [self._image_keys[image.path] for image in probed]
        key = content_key(
            "layers", REVISION, self._model_key, graph_digest(qdq.proto), layers, keys
        )
        known = self._store.get(key, dict[str, float])
        if known is None:
            job = (self._study.model, qdq.proto, layers, probed)
            known = run_apart(layer_errors, *job, progress=self._progress, what=name).result
            self._store.put(key, known)
        return known

    def _graph(self, made: _Made) -> None:
        """The table as the shared Q/DQ graph."""
        where = place(GRAPH, self._study.how.engine)
        with self._step(made.name, where):
            self._cells.graph(made.name, made.qdq.proto)
            self._ran(made, GRAPH, self._study.how.engine)

    def _simulations(self, made: _Made) -> None:
        """The table in every framework's own simulation, that of its maker first."""
        own = made.cost.recipe.backend
        for backend in sorted(self._simulating, key=lambda name: name != own):
            with self._step(made.name, place(SIMULATE, backend)):
                self._check_simulates(backend, made.plan)
                versions = sorted(self._plugins[backend].versions().items())
                how = (self._study.device, self._study.arithmetic)
                about = (*how, made.plan, made.table.tensors)
                self._cells.simulation(made.name, backend, versions, *about)
                self._ran(made, SIMULATE, backend)

    def _check_simulates(self, backend: str, sites: Plan) -> None:
        """Raises CapabilityError where a framework cannot simulate a plan as the study has it."""
        capabilities = self._plugins[backend].capabilities
        check_arithmetic(backend, capabilities, self._study.arithmetic)
        check_simulates(backend, capabilities, sites)

    def _ran(self, made: _Made, kind: str, runner: str) -> None:
        """Notes a cell that has been run, and tells its mAP."""
        self._cells_run.append((made.cost.recipe, kind, runner))
        name, here = made.name, place(kind, runner)
        change = estimate(self._cells.map_difference(name, here), sign="+")
        found = self._cells.map(name, here).value
        self._say(f"{name}, {here}: mAP {found:.3f}, against float {change}")

    def _deployment(self, recipe: Recipe, kind: str, runner: str) -> Deployment:
        """A cell and what it is held against, once all have been run."""
        cells, name, here = self._cells, recipe.name, place(kind, runner)
        against_graph = against_own = against_host = None
        if kind == SIMULATE:
            graph = place(GRAPH, self._study.how.engine)
            against_graph = cells.change((name, here), (name, graph))
            if runner != recipe.backend:
                own = place(SIMULATE, recipe.backend)
                against_own = cells.change((name, here), (name, own))
                host = replace(recipe, backend=runner).name
                against_host = cells.change((name, here), (host, here))
        return Deployment(
            name,
            kind,
            runner,
            cells.map(name, here),
            cells.against_float(name, here),
            against_graph,
            against_own,
            against_host,
        )

    def _floor(self, reference: str | None) -> Change | None:
        """The reference's graph against itself, its scales moved by one unit in the last place."""
        if reference is None:
            return None
        graph, moved = place(GRAPH, self._study.how.engine), f"{reference}.moved"
        with self._step(moved, graph):
            self._cells.graph(moved, nudged(self._made[reference].qdq.proto))
            return self._cells.change((moved, graph), (reference, graph))
        return None

    @contextmanager
    def _step(self, name: str, where: str) -> Iterator[None]:
        """A step whose failure is recorded, and ends nothing but the step."""
        try:
            yield
        except CapabilityError as error:
            self._unsupported.append(Lost(name, where, str(error)))
            self._say(f"{name}, {where}: left out: {error}")
        except QuantcoreError as error:
            self._failures.append(Lost(name, where, str(error)))
            self._say(f"{name}, {where}: failed: {error}")
        finally:
            self._progress.advance(self._task)


def _model_key(model: FloatModel) -> str:
    """The key of a model: its graph, its pre- and post-processing, its classes."""
    return content_key(model.fingerprint, model.preprocessing, model.decoding, model.class_names)
