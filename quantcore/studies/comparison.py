"""The float model and what every backend makes of it, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
    evaluate,
    neighbouring_maps,
    quantize,
    save_qdq,
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
from quantcore.runtime.executor import Executor, kept_in
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.host import host
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import Progress
from quantcore.studies.calibrations import calibrated
from quantcore.studies.keep import quantized_layers
from quantcore.studies.layers import LayerStudy, mix
from quantcore.studies.macs import int8_share, macs_of
from quantcore.studies.mixed import SearchTarget
from quantcore.studies.rewriting import rewritten
from quantcore.studies.sensitivity import StudiedModel
from quantcore.table.table import CalibrationTable


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        model: The float model.
        backends: Backend names.
        data: What to calibrate and evaluate on.
        out: Folder for the report and the artifacts.
        weights: Where the model came from, for the record.
        policy: Applied by every backend.
        engines: How graphs are evaluated: every graph on each.
        device: Where frameworks compute.
        threads: CPU threads of each framework; None for all.
        precision: Of what stays unquantized; see `pipeline.quantize`.
        target: What is asked of a search for the layers to leave in float, whose result is one more
            variant of every backend; None for no search.
        rewrites: What is done, in order, to the model that the backends are given; the float model
            is evaluated as it was given.
        graphs: How many graphs stand for each variant: its own, and others that hardly differ; see
            `quantcore.analysis.neighbours`.
    """

    model: FloatModel
    backends: tuple[str, ...]
    data: Data
    out: Path
    weights: Path | None = None
    policy: CalibrationPolicy = field(default_factory=CalibrationPolicy)
    engines: tuple[Evaluation, ...] = (Evaluation(),)
    device: str = "auto"
    threads: int | None = None
    precision: str = "int8"
    target: SearchTarget | None = None
    rewrites: tuple[str, ...] = ()
    graphs: int = 1

    def __post_init__(self) -> None:
        """Takes texts for the paths that they are."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "data", Data.of(self.data))


def compare(
    what: Comparison,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> RunRecord:
    """The float model and what every backend makes of it, on the same engines and evaluator.

    Each calibration and evaluation runs in a process of its own. What is finished is kept at once:
    a comparison that was interrupted goes on, and a backend or engine that fails costs nothing but
    itself; it is named in the record.

    Args:
        what: What is compared.
        progress: Where long work reports.
        say: Is given a line after each step.
        executor: Where the work is done; None for processes of this machine.

    Raises:
        QuantcoreError: Something that can be refused before any work; or the float model fails on
            the first engine, without which there is nothing to compare with.
    """
    ensure_folder(what.out)
    _check(what)
    with kept_in(what.out, progress, executor) as runtime:
        run = _Comparing(what, runtime, say)
        for name in what.rewrites:
            run.rewrite(name)
        run.float_model()
        for backend in what.backends:
            run.backend(backend)
        record = run.record()
        say(runtime.summary())
    write_whole(what.out / "report.json", json_text(record))
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
    if what.target is not None and not calibration.annotations:
        raise UsageError(f"{calibration.source}: no labels, and the search measures mAP there")
    dataset = CocoDataset.open(data.root, data.evaluation)
    dataset.check_classes(what.model.class_names)
    for how in what.engines:
        registry.load_engine(how.engine).check(how.options)
        dataset.select(how.images)


@dataclass(frozen=True, kw_only=True)
class _Quantized:
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
    def title(self) -> str:
        """How people call it."""
        return f"{self.backend}{', mixed' if self.found else ''}"

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
        return LeftInFloat(
            layers=chosen.kept,
            max_drop=at.max_drop,
            met=at.met,
            map_drop=drop,
            split=at.split,
            images=at.images,
        )


class _Comparing:
    """A comparison under way: what is finished so far."""

    def __init__(self, what: Comparison, runtime: Runtime, say: Callable[[str], None]) -> None:
        self._what = what
        self._model = what.model  # that the backends are given
        self._runtime, self._say = runtime, say
        self._rewrites: list[str] = []
        self._floats: list[Variant] = []
        self._variants: list[Variant] = []
        self._failures: list[Failure] = []
        self._tables: dict[str, CalibrationTable] = {}

    def rewrite(self, name: str) -> None:
        """Rewrites what the backends are given; writes that model."""
        what = self._what
        found = rewritten(self._model, name, what.data, what.policy, self._runtime)
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
            variant = Variant(
                backend=None,
                evaluated=found,
                calibration_seconds=0.0,
                peak_rss_mb=found.peak_rss_mb,
                onnx_bytes=size,
                artifacts=files,
                versions=versions,
            )
            self._floats.append(variant)
            self._say(f"float on {how.engine}: mAP {figure(found.detection.map)}")

    def backend(self, name: str) -> None:
        """Calibrates with one backend, writes its artifacts, evaluates its graph everywhere."""
        what = self._what
        try:
            given = (self._model, what.policy, name, what.data, what.device, what.threads)
            found = calibrated(name, *given, self._runtime)
            qdq = quantize(self._model, found.table, what.policy, what.precision)
        except QuantcoreError as error:
            self._failed(name, None, error)
            return
        self._tables[name] = found.table
        found.table.save(what.out / f"{name}.table.json")
        self._say(f"{name}: calibrated in {found.seconds:.1f} s")
        if found.audit:
            self._say(f"{name}: {terminal.audit(found.audit, name)}")
        self._on_engines(
            _Quantized(backend=name, label=name, calibrated=found, policy=what.policy, qdq=qdq)
        )
        if what.target is not None:
            self._mixed(name, found, what.target)

    def _mixed(self, name: str, found: Calibrated, target: SearchTarget) -> None:
        """Searches for the layers to leave in float; evaluates the graph without them."""
        what, label = self._what, f"{name}.mixed"
        # The images that the table was made with: the evaluation split stays unseen.
        study = LayerStudy(
            data=what.data.root,
            split=what.data.calibration,
            images=what.policy.images,
            target=target,
        )
        studied = StudiedModel(self._model, found.table, what.policy)
        try:
            mixed = mix(studied, study, ensure_folder(what.out / label), self._runtime)
            qdq = quantize(self._model, found.table, mixed.policy, what.precision)
        except QuantcoreError as error:
            self._failed(f"{name}, mixed", None, error)
            return
        write_whole(what.out / f"{label}.yaml", mixed.policy_yaml())
        self._say(f"{name}: {studies.verdict(mixed)}")
        self._on_engines(
            _Quantized(
                backend=name,
                label=label,
                calibrated=found,
                policy=mixed.policy,
                qdq=qdq,
                found=mixed,
            )
        )

    def _on_engines(self, made: _Quantized) -> None:
        """Writes a graph and evaluates it on every engine."""
        save_qdq(made.qdq, self._what.out / f"{made.label}.onnx")
        for how in self._what.engines:
            try:
                found = self._evaluate(made.title, made.qdq.proto, how)
            except QuantcoreError as error:
                self._failed(made.title, how.engine, error)
                continue
            variant = self._variant(made, found)
            change = estimate(variant.map_difference, sign="+")
            map_ = figure(found.detection.map)
            self._say(f"{variant.name}: mAP {map_}, against float {change}")
            self._variants.append(self._with_neighbours(variant, made, how))

    def _with_neighbours(self, variant: Variant, made: _Quantized, how: Evaluation) -> Variant:
        """The variant with what graphs that hardly differ from its own lose, where it is asked."""
        what, table = self._what, made.calibrated.table
        own, difference = variant.evaluated.detection.map, variant.map_difference
        if what.graphs == 1 or own is None or difference is None:
            return variant  # nothing is asked, or there are no labels
        given = (self._model, table, made.policy, what.precision, what.data, how, what.graphs - 1)
        try:
            maps = neighbouring_maps(*given, self._runtime)
        except QuantcoreError as error:
            self._failed(f"{made.label}, similar graphs", how.engine, error)
            return variant
        whole_map = own - difference.value
        others = (each - whole_map for each in maps if each is not None)
        found = Neighbours((difference.value, *others))
        self._say(f"{variant.name}: mean of {what.graphs} similar graphs {found.mean:+.3f}")
        return replace(variant, neighbours=found)

    def record(self) -> RunRecord:
        """Everything that was found."""
        return RunRecord(
            model=self._what.model.name,
            weights=self._what.weights.name if self._what.weights else self._what.model.name,
            data=str(self._what.data.root),
            floats=tuple(self._floats),
            variants=tuple(self._variants),
            failures=tuple(self._failures),
            thresholds=tuple(thresholds(self._tables)),
            host=host(),
            rewrites=tuple(self._rewrites),
        )

    def _evaluate(self, name: str, proto: onnx.ModelProto, how: Evaluation) -> Evaluated:
        title = f"{name} on {how.engine}"
        return evaluate(self._what.model, proto, self._what.data, how, self._runtime, title)

    def _variant(self, made: _Quantized, found: Evaluated) -> Variant:
        calibration, model = made.calibrated, self._model
        return Variant(
            backend=made.backend,
            evaluated=found,
            calibration_seconds=calibration.seconds,
            peak_rss_mb=calibration.peak_rss_mb,
            onnx_bytes=(self._what.out / made.artifacts["onnx"]).stat().st_size,
            artifacts=made.artifacts,
            # The engine's first: the same library may have calibrated in another version.
            versions={**found.versions, **calibration.table.provenance.versions},
            policy=made.policy.to_dict(),
            pairs=count_pairs(made.qdq.proto),
            # The audit is of the graph with everything quantized.
            audit=None if made.found else calibration.audit,
            parity=calibration.parity,
            map_difference=self._difference(found),
            macs_in_int8=int8_share(macs_of(model), quantized_layers(model, made.policy)),
            left=made.left,
        )

    def _difference(self, found: Evaluated) -> Estimate | None:
        """The mAP against the float model on the same engine, where that is known."""
        floats = (f.evaluated for f in self._floats)
        same = next((f.map_draws for f in floats if f.engine == found.engine), None)
        return found.map_draws.against(same) if same and found.map_draws else None

    def _failed(self, name: str, engine: str | None, error: QuantcoreError) -> None:
        self._failures.append(Failure(name, engine, str(error)))
        self._say(f"{name}{f' on {engine}' if engine else ''}: failed: {error}")
