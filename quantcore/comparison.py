"""The float model and what every backend makes of it, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import quantcore
from quantcore import registry
from quantcore.analysis.difference import thresholds
from quantcore.backend import check_capabilities
from quantcore.data.coco import CocoDataset
from quantcore.errors import QuantcoreError
from quantcore.files import ensure_folder, write_whole
from quantcore.ir import FloatModel
from quantcore.pipeline import Data, Evaluation, calibrate, evaluate, save_qdq
from quantcore.policy import CalibrationPolicy
from quantcore.progress import Progress, Silent
from quantcore.qdq.insertion import count_pairs
from quantcore.qdq.placement import plan
from quantcore.report import html, terminal
from quantcore.report.host import host
from quantcore.report.record import Evaluated, Failure, RunRecord, Variant
from quantcore.report.terminal import figure
from quantcore.table import CalibrationTable
from quantcore.worker import run_apart


def compare(
    model: FloatModel,
    weights: Path,
    policy: CalibrationPolicy,
    backends: Sequence[str],
    data: Data,
    out: Path,
    how: Evaluation,
    device: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> RunRecord:
    """The float model and what every backend makes of it, on one engine and one evaluator.

    Each backend calibrates in a process of its own. What is finished is written at once, so that
    a backend that fails costs nothing but itself; it is named in the record.

    Args:
        model: The float model.
        weights: Where it came from, for the record.
        policy: Applied by every backend.
        backends: Backend names.
        data: What to calibrate and evaluate on.
        out: Folder for the report and the artifacts.
        how: How graphs are evaluated.
        device: Where frameworks compute.
        progress: Where long work reports.
        say: Is given a line after each step.
    """
    progress = progress or Silent()
    ensure_folder(out)
    _check(model, policy, backends, data, how)
    write_whole(out / "float.onnx", model.proto.SerializeToString())
    done = run_apart(evaluate, model, model.proto, data, how, progress=progress, what="float model")
    baseline = _float_variant(done.result, out)
    say(f"float: mAP {figure(done.result.detection.map)}")
    variants, failures = [], []
    tables: dict[str, CalibrationTable] = {}
    for backend in backends:
        try:
            found, tables[backend] = _variant(
                model, policy, backend, data, out, how, device, progress
            )
        except QuantcoreError as error:
            failures.append(Failure(backend, str(error)))
            say(f"{backend}: failed: {error}")
            continue
        variants.append(found)
        say(_summary(found))
    record = RunRecord(
        model.name,
        weights.name,
        str(data.root),
        baseline,
        tuple(variants),
        tuple(failures),
        tuple(thresholds(tables)),
        host(),
    )
    write_whole(out / "report.json", json.dumps(record.to_dict(), indent=1, allow_nan=False) + "\n")
    write_whole(out / "report.html", html.render(record))
    return record


def _check(
    model: FloatModel,
    policy: CalibrationPolicy,
    backends: Sequence[str],
    data: Data,
    how: Evaluation,
) -> None:
    """Refuses what can be refused before any work is done."""
    registry.load_engine(how.engine)
    sites = plan(model, policy)
    for backend in backends:
        check_capabilities(backend, registry.load_backend(backend).capabilities, sites)
    CocoDataset.open(data.root, data.calibration).select(policy.images, policy.seed)
    dataset = CocoDataset.open(data.root, data.evaluation)
    dataset.check_classes(model.class_names)
    dataset.select(how.images)


def _variant(
    model: FloatModel,
    policy: CalibrationPolicy,
    backend: str,
    data: Data,
    out: Path,
    how: Evaluation,
    device: str,
    progress: Progress,
) -> tuple[Variant, CalibrationTable]:
    """Calibrates with one backend, writes its artifacts, evaluates its graph."""
    calibrated = run_apart(
        calibrate, model, policy, backend, data, device, progress=progress, what=backend
    ).result
    artifacts = {"onnx": f"{backend}.onnx", "table": f"{backend}.table.json"}
    calibrated.table.save(out / artifacts["table"])
    save_qdq(calibrated.qdq, out / artifacts["onnx"])
    proto = calibrated.qdq.proto
    evaluated = run_apart(
        evaluate, model, proto, data, how, progress=progress, what=f"{backend} on {how.engine}"
    ).result
    found = Variant(
        backend,
        evaluated,
        calibrated.seconds,
        calibrated.peak_rss_mb,
        (out / artifacts["onnx"]).stat().st_size,
        artifacts,
        {**calibrated.table.provenance.versions, **evaluated.versions},
        policy.to_dict(),
        count_pairs(proto),
        calibrated.audit,
        calibrated.parity,
    )
    return found, calibrated.table


def _float_variant(evaluated: Evaluated, out: Path) -> Variant:
    return Variant(
        None,
        evaluated,
        0.0,
        evaluated.peak_rss_mb,
        (out / "float.onnx").stat().st_size,
        {"onnx": "float.onnx"},
        {**evaluated.versions, "quantcore": quantcore.__version__},
    )


def _summary(variant: Variant) -> str:
    lines = [
        f"{variant.name}: mAP {figure(variant.evaluated.detection.map)}, calibrated in "
        f"{variant.calibration_seconds:.1f} s"
    ]
    if variant.audit:
        lines.append(f"{variant.name}: {terminal.audit(variant.audit, variant.name)}")
    return "\n".join(lines)
