"""The float model and what every backend makes of it, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

import quantcore
from quantcore.analysis.difference import thresholds
from quantcore.contracts import registry
from quantcore.contracts.capabilities import check_capabilities
from quantcore.data.coco import CocoDataset
from quantcore.errors import QuantcoreError, UsageError
from quantcore.ir.description import describe
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.pipeline import (
    Calibrated,
    Data,
    Evaluation,
    calibrate,
    evaluate,
    neighbouring_maps,
    quantize,
    rewrite,
    save_qdq,
    typed,
)
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import count_pairs
from quantcore.qdq.placement import plan
from quantcore.qdq.precision import check_precision
from quantcore.report import html, studies, terminal
from quantcore.report.terminal import estimate, figure
from quantcore.results.comparison import Evaluated, Failure, LeftInFloat, RunRecord, Variant
from quantcore.results.estimate import Estimate, Neighbours
from quantcore.results.mixed import Mixed
from quantcore.results.rewrites import Rewritten
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.host import host
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import run_apart
from quantcore.studies.keep import quantized_layers
from quantcore.studies.layers import Study, mix
from quantcore.studies.macs import int8_share, macs_of
from quantcore.studies.mixed import Wish
from quantcore.studies.sensitivity import Subject
from quantcore.table.table import CalibrationTable


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        model: The float model.
        weights: Where it came from, for the record.
        policy: Applied by every backend.
        backends: Backend names.
        data: What to calibrate and evaluate on.
        out: Folder for the report and the artifacts.
        engines: How graphs are evaluated: every graph on each.
        device: Where frameworks compute.
        precision: Of what stays unquantized; see `pipeline.quantize`.
        wish: What is asked of a search for the layers to leave in float, whose result is one more
            variant of every backend; None for no search.
        rewrites: What is done, in order, to the model that the backends are given; the float model
            is evaluated as it was given.
        graphs: How many graphs stand for each variant: its own, and others that hardly differ; see
            `quantcore.analysis.neighbours`.
    """

    model: FloatModel
    weights: Path
    policy: CalibrationPolicy
    backends: tuple[str, ...]
    data: Data
    out: Path
    engines: tuple[Evaluation, ...]
    device: str = "auto"
    precision: str = "int8"
    wish: Wish | None = None
    rewrites: tuple[str, ...] = ()
    graphs: int = 1


def compare(
    what: Comparison,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RunRecord:
    """The float model and what every backend makes of it, on the same engines and evaluator.

    Each calibration and evaluation runs in a process of its own. What is finished is written at
    once, so that a backend or engine that fails costs nothing but itself; it is named in the
    record.

    Args:
        what: What is compared.
        progress: Where long work reports.
        say: Is given a line after each step.

    Raises:
        QuantcoreError: Something that can be refused before any work; or the float model fails on
            the first engine, without which there is nothing to compare with.
    """
    run = _Run(what, progress or Silent(), say)
    ensure_folder(what.out)
    _check(what)
    for name in what.rewrites:
        run.rewrite(name)
    run.float_model()
    for backend in what.backends:
        run.backend(backend)
    record = run.record()
    write_whole(what.out / "report.json", json.dumps(record.to_dict(), indent=1) + "\n")
    write_whole(what.out / "report.html", html.render(record))
    return record


def _check(what: Comparison) -> None:
    """Refuses what can be refused before any work is done."""
    sites = plan(what.model, what.policy)
    for backend in what.backends:
        check_capabilities(backend, registry.load_backend(backend).capabilities, sites)
    check_precision(what.precision)
    for name in what.rewrites:
        registry.load_rewrite(name).check_table(what.model, None)
    data = what.data
    calibration = CocoDataset.open(data.root, data.calibration)
    calibration.select(what.policy.images, what.policy.seed)
    if what.wish is not None and not calibration.annotations:
        raise UsageError(f"{calibration.source}: no labels, and the search measures mAP there")
    dataset = CocoDataset.open(data.root, data.evaluation)
    dataset.check_classes(what.model.class_names)
    for how in what.engines:
        registry.load_engine(how.engine).check(how.options)
        dataset.select(how.images)


@dataclass(frozen=True)
class _Made:
    """A graph that a backend made, before it is evaluated.

    Attributes:
        backend: Backend name.
        label: What its files are called.
        calibrated: Where its ranges come from.
        policy: Applied.
        qdq: The graph.
        found: The search that the policy comes from; None where it is the comparison's.
    """

    backend: str
    label: str
    calibrated: Calibrated
    policy: CalibrationPolicy
    qdq: QdqModel
    found: Mixed | None = None

    @property
    def artifacts(self) -> dict[str, str]:
        """File names in the output folder, by kind."""
        files = {"onnx": f"{self.label}.onnx", "table": f"{self.backend}.table.json"}
        if self.found:
            files["policy"] = f"{self.label}.yaml"
            files["search"] = f"{self.label}/mixed.json"
            files["frontier"] = f"{self.label}/frontier.svg"
        return files

    @property
    def left(self) -> LeftInFloat | None:
        """What the search left in float."""
        if self.found is None:
            return None
        at, chosen = self.found, self.found.chosen
        drop = chosen.loss.map_drop
        return LeftInFloat(chosen.kept, at.max_drop, at.met, drop, at.split, at.images)


class _Run:
    """A comparison under way: what is finished so far."""

    def __init__(self, what: Comparison, progress: Progress, say: Callable[[str], None]) -> None:
        self._what = what
        self._model = what.model  # that the backends are given
        self._rewrites: list[str] = []
        self._progress = progress
        self._say = say
        self._floats: list[Variant] = []
        self._variants: list[Variant] = []
        self._failures: list[Failure] = []
        self._tables: dict[str, CalibrationTable] = {}

    def rewrite(self, name: str) -> None:
        """Rewrites what the backends are given; writes that model."""
        what = self._what
        on = (what.data, what.policy.images, what.policy.seed, None, None)
        found: Rewritten = run_apart(
            rewrite, self._model, name, *on, progress=self._progress, what=name
        ).result
        self._model = found.model
        path = what.out / f"{registry.load_rewrite(name).makes}.onnx"
        write_whole(path, describe(found.model).SerializeToString())
        self._rewrites.append(found.line)
        self._say(found.line)

    def float_model(self) -> None:
        """Writes the float graph and evaluates it on every engine."""
        path = self._what.out / "float.onnx"
        write_whole(path, describe(self._what.model).SerializeToString())
        for how in self._what.engines:
            try:
                found = self._evaluate("float model", self._what.model.proto, how)
            except QuantcoreError as error:
                if not self._floats:
                    raise
                self._failed("float", how.engine, error)
                continue
            versions = {**found.versions, "quantcore": quantcore.__version__}
            size, files = path.stat().st_size, {"onnx": path.name}
            self._floats.append(Variant(None, found, 0.0, found.peak_rss_mb, size, files, versions))
            self._say(f"float on {how.engine}: mAP {figure(found.detection.map)}")

    def backend(self, name: str) -> None:
        """Calibrates with one backend, writes its artifacts, evaluates its graph everywhere."""
        what = self._what
        try:
            calibrated = run_apart(
                calibrate,
                self._model,
                what.policy,
                name,
                what.data,
                what.device,
                progress=self._progress,
                what=name,
            ).result
            qdq = typed(self._model, calibrated.qdq, what.policy, what.precision)
        except QuantcoreError as error:
            self._failed(name, None, error)
            return
        self._tables[name] = calibrated.table
        calibrated.table.save(what.out / f"{name}.table.json")
        self._say(f"{name}: calibrated in {calibrated.seconds:.1f} s")
        if calibrated.audit:
            self._say(f"{name}: {terminal.audit(calibrated.audit, name)}")
        self._on_engines(_Made(name, name, calibrated, what.policy, qdq))
        if what.wish is not None:
            self._mixed(name, calibrated, what.wish)

    def _mixed(self, name: str, calibrated: Calibrated, wish: Wish) -> None:
        """Searches for the layers to leave in float; evaluates the graph without them."""
        what, label = self._what, f"{name}.mixed"
        # The images that the table was made with: the evaluation split stays unseen.
        study = Study(what.data.root, what.data.calibration, images=what.policy.images, wish=wish)
        subject = Subject(self._model, calibrated.table, what.policy)
        folder = ensure_folder(what.out / label)
        try:
            found: Mixed = run_apart(
                mix, subject, study, folder, progress=self._progress, what=label
            ).result
            qdq = quantize(self._model, calibrated.table, found.policy, what.precision)
        except QuantcoreError as error:
            self._failed(f"{name}, mixed", None, error)
            return
        write_whole(what.out / f"{label}.yaml", found.policy_yaml())
        self._say(f"{name}: {studies.verdict(found)}")
        self._on_engines(_Made(name, label, calibrated, found.policy, qdq, found))

    def _on_engines(self, made: _Made) -> None:
        """Writes a graph and evaluates it on every engine."""
        save_qdq(made.qdq, self._what.out / f"{made.label}.onnx")
        title = f"{made.backend}{', mixed' if made.found else ''}"
        for how in self._what.engines:
            try:
                found = self._evaluate(title, made.qdq.proto, how)
            except QuantcoreError as error:
                self._failed(title, how.engine, error)
                continue
            variant = self._variant(made, found)
            change = estimate(variant.map_difference, sign="+")
            map_ = figure(found.detection.map)
            self._say(f"{variant.name}: mAP {map_}, against float {change}")
            self._variants.append(self._with_neighbours(variant, made, how))

    def _with_neighbours(self, variant: Variant, made: _Made, how: Evaluation) -> Variant:
        """The variant with what graphs that hardly differ from its own lose, where it is asked."""
        what, table = self._what, made.calibrated.table
        own, difference = variant.evaluated.detection.map, variant.map_difference
        if what.graphs == 1 or own is None or difference is None:
            return variant  # nothing is asked, or there are no labels
        job = (self._model, table, made.policy, what.precision, what.data, how, what.graphs - 1)
        try:
            maps = run_apart(
                neighbouring_maps, *job, progress=self._progress, what=f"{variant.name}, similar"
            ).result
        except QuantcoreError as error:
            self._failed(f"{made.label}, similar graphs", how.engine, error)
            return variant
        whole = own - difference.value
        others = (each - whole for each in maps if each is not None)
        found = Neighbours((difference.value, *others))
        self._say(f"{variant.name}: mean of {what.graphs} similar graphs {found.mean:+.3f}")
        return replace(variant, neighbours=found)

    def record(self) -> RunRecord:
        """Everything that was found."""
        return RunRecord(
            self._what.model.name,
            self._what.weights.name,
            str(self._what.data.root),
            tuple(self._floats),
            tuple(self._variants),
            tuple(self._failures),
            tuple(thresholds(self._tables)),
            host(),
            tuple(self._rewrites),
        )

    def _evaluate(self, name: str, proto: onnx.ModelProto, how: Evaluation) -> Evaluated:
        arguments = (self._what.model, proto, self._what.data, how)
        title = f"{name} on {how.engine}"
        return run_apart(evaluate, *arguments, progress=self._progress, what=title).result

    def _variant(self, made: _Made, found: Evaluated) -> Variant:
        calibrated, model = made.calibrated, self._model
        return Variant(
            made.backend,
            found,
            calibrated.seconds,
            calibrated.peak_rss_mb,
            (self._what.out / made.artifacts["onnx"]).stat().st_size,
            made.artifacts,
            # The engine's first: the same library may have calibrated in another version.
            {**found.versions, **calibrated.table.provenance.versions},
            made.policy.to_dict(),
            count_pairs(made.qdq.proto),
            # The audit is of the graph with everything quantized.
            None if made.found else calibrated.audit,
            calibrated.parity,
            self._difference(found),
            int8_share(macs_of(model), quantized_layers(model, made.policy)),
            made.left,
        )

    def _difference(self, found: Evaluated) -> Estimate | None:
        """The mAP against the float model on the same engine, where that is known."""
        floats = (f.evaluated for f in self._floats)
        same = next((f.map_draws for f in floats if f.engine == found.engine), None)
        return found.map_draws.against(same) if same and found.map_draws else None

    def _failed(self, name: str, engine: str | None, error: QuantcoreError) -> None:
        self._failures.append(Failure(name, engine, str(error)))
        self._say(f"{name}{f' on {engine}' if engine else ''}: failed: {error}")
