"""The matrix "calibrated with x deployed as", cell by cell, each computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin
from quantcore.contracts.capabilities import (
    Support,
    check_arithmetic,
    check_capabilities,
    check_simulates,
)
from quantcore.data.opening import open_dataset, split_in
from quantcore.errors import CapabilityError, QuantcoreError, UsageError
from quantcore.ir.edits import nudged
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.pipeline import check_training
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
from quantcore.runtime.executor import Executor, kept_in
from quantcore.runtime.files import ensure_folder
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, file_digests, graph_digest
from quantcore.runtime.progress import Progress
from quantcore.studies.manifest import Invocation, manifest
from quantcore.studies.portability.cells import DeploymentCells
from quantcore.studies.portability.made import PortabilityStudy, made
from quantcore.studies.portability.pairs import pair
from quantcore.studies.portability.work import Simulated, layer_errors
from quantcore.studies.runs import PROBED_IMAGES
from quantcore.table.table import CalibrationTable

#: Of what kept errors of layers mean; a change of it makes all that is on disk obsolete.
REVISION = 1


@dataclass(frozen=True)
class _TableUnderStudy:
    """A table under study, and the float model that it is of."""

    cost: TableCost
    model: FloatModel
    table: CalibrationTable
    plan: Plan
    qdq: QdqModel

    @property
    def name(self) -> str:
        return self.cost.recipe.name


def run(
    study: PortabilityStudy,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> Portability:
    """Calibrates with every recipe and deploys every table everywhere.

    Whatever is finished is on disk at once: a run that was interrupted goes on where it stopped. A
    backend or cell that fails costs nothing but itself and is named.

    Args:
        study: What is studied.
        progress: Where long work reports.
        say: Is given a line after each step.
        executor: Where the work is done; None for processes of this machine.

    Raises:
        QuantcoreError: Something that can be refused before any work; or the float model fails.
    """
    ensure_folder(study.out)
    with kept_in(study.out, progress, executor) as runtime:
        found = _Deploying(study, runtime, say).run()
        say(runtime.summary())
    return found


#: A cell that was run: whose table, as what, and by whom.
_CellRun = tuple[Recipe, str, str]


class _Deploying:
    """A study under way: what is finished so far."""

    def __init__(
        self, study: PortabilityStudy, runtime: Runtime, say: Callable[[str], None]
    ) -> None:
        self._study, self._runtime, self._say = study, runtime, say
        self._progress = runtime.progress
        self._made: dict[str, _TableUnderStudy] = {}
        self._cells_run: list[_CellRun] = []
        self._unsupported: list[Lost] = []
        self._failures: list[Lost] = []
        self._plugins: Mapping[str, BackendPlugin] = {
            name: registry.load_backend(name) for name in study.backends
        }
        registry.load_engine(study.how.engine).check(study.how.options)
        needs = [registry.needed(registry.BACKENDS, name, study.device) for name in study.backends]
        needs.append(registry.needed(registry.ENGINES, study.how.engine))
        runtime.executor.check(needs)
        self._recipes = self._possible()
        self._simulating = [
            n for n, p in self._plugins.items() if p.capabilities.simulate is not Support.NONE
        ]
        calibration = open_dataset(study.data.root, study.data.calibration)
        for recipe in self._recipes:
            calibration.select(recipe.policy.images, recipe.policy.seed)  # refused before any work
        dataset = open_dataset(study.data.root, study.data.evaluation)
        self._images = dataset.select(study.how.images)
        dataset.labels_of(self._images)
        self._dataset = dataset
        self._cells = DeploymentCells(study.model, dataset, self._images, study.how, runtime)

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
                if recipe.trained and study.training:
                    given = (study.model, study.data, recipe.backend, recipe.policy)
                    check_training(*given, study.training)
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

    def run(self) -> Portability:
        """The whole study."""
        study = self._study
        found = self._cells.float_model()
        metric = self._cells.task.metric
        self._say(f"float on {study.how.engine}: {metric.title} {estimate(found)}")
        steps = len(self._recipes) * (2 + len(self._simulating)) + 1
        self._task = self._progress.start("steps of the study", steps)
        try:
            together = self._runtime.together
            together([partial(self._calibrate, recipe) for recipe in self._recipes])
            names = [recipe.name for recipe in self._recipes if recipe.name in self._made]
            self._made = {name: self._made[name] for name in names}
            work = [partial(self._graph, made) for made in self._made.values()]
            for made in self._made.values():
                work += [partial(self._simulation, made, name) for name in self._frameworks(made)]
            self._cells_run = [cell for cell in together(work) if cell is not None]
            reference = study.reference if study.reference in names else next(iter(names), None)
            floor = self._floor(reference)
        finally:
            self._progress.stop(self._task)
        cells = self._progress.track(self._cells_run, f"comparing {metric.kept}")
        host = self._runtime.host(registry.needed(registry.ENGINES, study.how.engine))
        return Portability(
            model=study.model.name,
            weights=study.weights.name,
            data=str(study.data.root),
            splits=(
                split_in(study.data.root, study.data.calibration),
                split_in(study.data.root, study.data.evaluation),
            ),
            images=len(self._images),
            engine=study.how.engine,
            arithmetic=study.arithmetic,
            metric=metric,
            float_figure=found,
            reference=reference,
            tables=tuple(made.cost for made in self._made.values()),
            deployments=tuple(self._deployment(*cell) for cell in cells),
            pairs=self._pairs(reference),
            floor=floor,
            unsupported=tuple(self._unsupported),
            failures=tuple(self._failures),
            host=host,
            manifest=self._manifest(host),
        )

    def _manifest(self, host: Mapping[str, object]) -> dict[str, Any]:
        study = self._study
        versions = dict(registry.load_engine(study.how.engine).versions())
        for one in self._made.values():
            versions |= one.table.provenance.versions
        invocation = Invocation(command=study.command, weights=study.weights, threads=study.threads)
        given = (invocation, self._dataset, self._images, host, versions)
        return manifest(*given, self._progress)

    def _pairs(self, reference: str | None) -> tuple[Pair, ...]:
        """Every two tables of the given network, the reference first where it is one of them."""
        calibrated = [made for made in self._made.values() if not made.cost.recipe.trained]
        ordered = sorted(calibrated, key=lambda made: made.name != reference)
        return tuple(
            pair((a.name, b.name), (a.table, b.table), (a.cost.layers_db, b.cost.layers_db))
            for a, b in combinations(ordered, 2)
        )

    def _calibrate(self, recipe: Recipe) -> None:
        """Makes a table and measures its layers, or takes both from the folder."""
        with self._step(recipe.name, "calibration"):
            before = self._runtime.computed
            done = made(self._study, recipe, self._runtime)
            new = self._runtime.computed > before
            word = "trained" if recipe.trained else "calibrated"
            self._say(
                f"{recipe.name}: {word} in {done.seconds:.1f} s"
                if new
                else f"{recipe.name}: table reused"
            )
            path = self._study.out / "tables" / f"{recipe.name}.table.json"
            done.table.save(path)
            sites = plan(done.model, recipe.policy)
            qdq = insert(done.model, sites, done.table)
            cost = TableCost(
                recipe=recipe,
                file=str(path.relative_to(self._study.out)),
                seconds=done.seconds,
                peak_rss_mb=done.peak_rss_mb,
                parity=done.parity,
                versions=done.table.provenance.versions,
                layers_db=self._layers(recipe.name, done.model, sites, qdq),
            )
            self._made[recipe.name] = _TableUnderStudy(cost, done.model, done.table, sites, qdq)

    def _layers(self, name: str, model: FloatModel, sites: Plan, qdq: QdqModel) -> dict[str, float]:
        layers = tuple(decision.layer for decision in sites.decisions if decision.quantized)
        probed = self._images[:PROBED_IMAGES]
        digests = file_digests((image.path for image in probed), self._progress)
        key = content_key(
            "layers' errors",
            REVISION,
            model.key,
            graph_digest(qdq.proto),
            layers,
            [digests[image.path] for image in probed],
        )
        given = (model, qdq.proto, layers, probed)
        job = whole(name, key, dict[str, float], layer_errors, *given, reads=digests)
        return self._runtime.one(job)

    def _graph(self, made: _TableUnderStudy) -> _CellRun | None:
        """The table as the shared Q/DQ graph; None where that failed."""
        where = place(GRAPH, self._study.how.engine)
        with self._step(made.name, where):
            self._cells.graph(made.name, made.qdq.proto)
            return self._ran(made, GRAPH, self._study.how.engine)
        return None

    def _frameworks(self, made: _TableUnderStudy) -> list[str]:
        """Backends that simulate, a table's maker first."""
        return sorted(self._simulating, key=lambda name: name != made.cost.recipe.backend)

    def _simulation(self, made: _TableUnderStudy, backend: str) -> _CellRun | None:
        """The table in a framework's own simulation; None where that failed."""
        with self._step(made.name, place(SIMULATE, backend)):
            self._check_simulates(backend, made.plan)
            how = Simulated(
                backend=backend,
                device=self._study.device,
                arithmetic=self._study.arithmetic,
                plan=made.plan,
                ranges=made.table.tensors,
            )
            self._cells.simulation(made.name, made.model, how)
            return self._ran(made, SIMULATE, backend)
        return None

    def _check_simulates(self, backend: str, sites: Plan) -> None:
        """Raises CapabilityError where a framework cannot simulate a plan as the study has it."""
        capabilities = self._plugins[backend].capabilities
        check_arithmetic(backend, capabilities, self._study.arithmetic)
        check_simulates(backend, capabilities, sites)

    def _ran(self, made: _TableUnderStudy, kind: str, runner: str) -> _CellRun:
        """A cell that has been run; tells its main figure."""
        name, here = made.name, place(kind, runner)
        change = estimate(self._cells.difference(name, here), sign="+")
        main = f"{self._cells.task.metric.title} {self._cells.figure(name, here).value:.3f}"
        self._say(f"{name}, {here}: {main}, against float {change}")
        return made.cost.recipe, kind, runner

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
            table=name,
            kind=kind,
            runner=runner,
            figure=cells.figure(name, here),
            against_float=cells.against_float(name, here),
            against_graph=against_graph,
            against_own=against_own,
            against_host=against_host,
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
