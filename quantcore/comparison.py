"""The float model and what every backend makes of it, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

import quantcore
from quantcore import registry
from quantcore.analysis.difference import thresholds
from quantcore.analysis.resample import Estimate
from quantcore.backend import check_capabilities
from quantcore.data.coco import CocoDataset
from quantcore.errors import QuantcoreError
from quantcore.files import ensure_folder, write_whole
from quantcore.ir import FloatModel, QdqModel
from quantcore.pipeline import Calibrated, Data, Evaluation, calibrate, evaluate, save_qdq, typed
from quantcore.policy import CalibrationPolicy
from quantcore.progress import Progress, Silent
from quantcore.qdq.insertion import count_pairs
from quantcore.qdq.placement import plan
from quantcore.qdq.precision import check_precision
from quantcore.report import html, terminal
from quantcore.report.host import host
from quantcore.report.record import Evaluated, Failure, RunRecord, Variant
from quantcore.report.terminal import estimate, figure
from quantcore.table import CalibrationTable
from quantcore.worker import run_apart


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
    data = what.data
    CocoDataset.open(data.root, data.calibration).select(what.policy.images, what.policy.seed)
    dataset = CocoDataset.open(data.root, data.evaluation)
    dataset.check_classes(what.model.class_names)
    for how in what.engines:
        registry.load_engine(how.engine).check(how.options)
        dataset.select(how.images)


class _Run:
    """A comparison under way: what is finished so far."""

    def __init__(self, what: Comparison, progress: Progress, say: Callable[[str], None]) -> None:
        self._what = what
        self._progress = progress
        self._say = say
        self._floats: list[Variant] = []
        self._variants: list[Variant] = []
        self._failures: list[Failure] = []
        self._tables: dict[str, CalibrationTable] = {}

    def float_model(self) -> None:
        """Writes the float graph and evaluates it on every engine."""
        path = self._what.out / "float.onnx"
        write_whole(path, self._what.model.proto.SerializeToString())
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
                what.model,
                what.policy,
                name,
                what.data,
                what.device,
                progress=self._progress,
                what=name,
            ).result
            qdq = typed(what.model, calibrated.qdq, what.policy, what.precision)
        except QuantcoreError as error:
            self._failed(name, None, error)
            return
        self._tables[name] = calibrated.table
        calibrated.table.save(what.out / f"{name}.table.json")
        save_qdq(qdq, what.out / f"{name}.onnx")
        self._say(f"{name}: calibrated in {calibrated.seconds:.1f} s")
        if calibrated.audit:
            self._say(f"{name}: {terminal.audit(calibrated.audit, name)}")
        for how in what.engines:
            try:
                found = self._evaluate(name, qdq.proto, how)
            except QuantcoreError as error:
                self._failed(name, how.engine, error)
                continue
            variant = self._variant(name, calibrated, qdq, found)
            self._variants.append(variant)
            change = estimate(variant.map_difference, sign="+")
            map_ = figure(found.detection.map)
            self._say(f"{name} on {how.engine}: mAP {map_}, against float {change}")

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
        )

    def _evaluate(self, name: str, proto: onnx.ModelProto, how: Evaluation) -> Evaluated:
        arguments = (self._what.model, proto, self._what.data, how)
        title = f"{name} on {how.engine}"
        return run_apart(evaluate, *arguments, progress=self._progress, what=title).result

    def _variant(
        self, name: str, calibrated: Calibrated, qdq: QdqModel, found: Evaluated
    ) -> Variant:
        artifacts = {"onnx": f"{name}.onnx", "table": f"{name}.table.json"}
        return Variant(
            name,
            found,
            calibrated.seconds,
            calibrated.peak_rss_mb,
            (self._what.out / artifacts["onnx"]).stat().st_size,
            artifacts,
            # The engine's first: the same library may have calibrated in another version.
            {**found.versions, **calibrated.table.provenance.versions},
            self._what.policy.to_dict(),
            count_pairs(qdq.proto),
            calibrated.audit,
            calibrated.parity,
            self._difference(found),
        )

    def _difference(self, found: Evaluated) -> Estimate | None:
        """The mAP against the float model on the same engine, where that is known."""
        floats = (f.evaluated for f in self._floats)
        same = next((f.map_draws for f in floats if f.engine == found.engine), None)
        return found.map_draws.against(same) if same and found.map_draws else None

    def _failed(self, name: str, engine: str | None, error: QuantcoreError) -> None:
        self._failures.append(Failure(name, engine, str(error)))
        self._say(f"{name}{f' on {engine}' if engine else ''}: failed: {error}")
