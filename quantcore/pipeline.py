"""The way of the data, stage by stage: model, calibration table, Q/DQ graph, evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

import quantcore
from quantcore.analysis.agreement import audit, check_parity, noise
from quantcore.analysis.neighbours import neighbours
from quantcore.analysis.scoring import Scored, scores_job
from quantcore.calibration.driver import find_ranges
from quantcore.contracts import registry
from quantcore.contracts.capabilities import check_capabilities, check_shows_activations, simulates
from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.model import ModelOptions
from quantcore.contracts.session import BackendSession, SessionOptions
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.engines.audit import audit as int8_audit
from quantcore.errors import CheckpointError
from quantcore.evaluation.jobs import Found, LatencyTest, Measured, RunSettings, graph_job
from quantcore.ir.model import Array, FloatModel, QdqModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan, plan
from quantcore.qdq.precision import with_precision
from quantcore.results.audit import SimulationAudit
from quantcore.results.comparison import Evaluated
from quantcore.results.rewrites import Rewritten
from quantcore.runtime.executor import InProcess
from quantcore.runtime.files import write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable, Provenance

CALIBRATION_SPLIT = "train2017"
EVALUATION_SPLIT = "val2017"
AUDIT_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A calibration and what it cost.

    Attributes:
        model: The float model that the table is for.
        table: The ranges.
        seconds: Wall time of the calibration alone, reading images included.
        peak_rss_mb: Peak resident memory of the process up to its end.
        parity: Relative difference of the materialised network from the float graph.
        audit: The Q/DQ graph against the framework's own simulation, None where it has none for the
            codes.
    """

    model: FloatModel
    table: CalibrationTable
    seconds: float
    peak_rss_mb: float
    parity: float
    audit: SimulationAudit | None


@dataclass(frozen=True)
class Data:
    """A COCO-format folder and the splits to use.

    Attributes:
        root: Holds `annotations/` and the image folders.
        calibration: Split to calibrate on.
        evaluation: Split to evaluate on.
    """

    root: Path
    calibration: str = CALIBRATION_SPLIT
    evaluation: str = EVALUATION_SPLIT


@dataclass(frozen=True)
class Evaluation:
    """How graphs are evaluated.

    Attributes:
        engine: Engine name.
        options: How it is built.
        images: How many images of the split; None for all.
        batch_size: Images per inference while accuracy is measured; latency is at batch 1.
        warmup: Inferences before latency is measured.
        runs: Inferences that are measured.
    """

    engine: str = REFERENCE_ENGINE
    options: EngineOptions = field(default_factory=EngineOptions)
    images: int | None = None
    batch_size: int = 1
    warmup: int = 5
    runs: int = 50


def load_model(name: str, weights: Path, options: ModelOptions | None = None) -> FloatModel:
    """The float model of a checkpoint; raises PluginError, CheckpointError or UsageError."""
    plugin = registry.load_model(name)
    return plugin.load(weights, options or plugin.options())


def rewrite(
    model: FloatModel,
    name: str,
    data: Data,
    images: int,
    seed: int = 0,
    options: object | None = None,
    table: CalibrationTable | None = None,
    progress: Progress | None = None,
) -> Rewritten:
    """The model after a rewrite, which is held to what it claims.

    Args:
        model: The float model.
        name: Of the rewrite.
        data: Where the calibration images are.
        images: How many.
        seed: Which ones, as in a policy.
        options: The rewrite's own; its defaults where None.
        table: Ranges of the model, for a rewrite that works on them.
        progress: Where to report.

    Raises:
        QuantcoreError: As `Rewrite.apply`, or the rewrite or the images are not there.
    """
    plugin = registry.load_rewrite(name)
    plugin.check_table(model, table)
    chosen = CocoDataset.open(data.root, data.calibration).select(images, seed)
    batches = Batches(chosen, model.preprocessing, model.batch_size or 1)
    engine = registry.load_engine(REFERENCE_ENGINE)
    return plugin.apply(model, table, batches, engine, options, progress)


def calibrate(
    model: FloatModel,
    policy: CalibrationPolicy,
    backend: str,
    data: Data,
    device: str = "auto",
    progress: Progress | None = None,
    keep_histograms: bool = False,
) -> Calibrated:
    """Calibrates a model with one backend and audits the result.

    Everything that can be refused is refused before an image is read: rules, capabilities, files.

    Args:
        model: The float model.
        policy: What to calibrate and how.
        backend: Backend name.
        data: What to calibrate on.
        device: Where the framework computes.
        progress: Where long work reports.
        keep_histograms: The table keeps what any portable observer reads. The frameworks' own
            calibrators hide it, so that `implementation: native` then takes a second pass.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    return calibrate_each(model, (policy,), backend, data, device, progress, keep_histograms)[0]


def calibrate_each(
    model: FloatModel,
    policies: Sequence[CalibrationPolicy],
    backend: str,
    data: Data,
    device: str = "auto",
    progress: Progress | None = None,
    keep_histograms: bool = False,
) -> list[Calibrated]:
    """As `calibrate`, for policies that differ in their observers alone: one pass serves all.

    Args:
        model: See `calibrate`.
        policies: One, or several portable ones; images, batch size, seed and arithmetic are the
            first's.
        backend: See `calibrate`.
        data: See `calibrate`.
        device: See `calibrate`.
        progress: See `calibrate`.
        keep_histograms: See `calibrate`.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    plugin = registry.load_backend(backend)
    plans = [plan(model, policy) for policy in policies]
    for sites in plans:
        check_capabilities(backend, plugin.capabilities, sites)
    if keep_histograms or len(plans) > 1:
        check_shows_activations(backend, plugin.capabilities)
    first = policies[0]
    images = CocoDataset.open(data.root, data.calibration).select(first.images, first.seed)
    batches = Batches(images, model.preprocessing, model.batch_size or first.batch_size)
    ids = tuple(image.id for image in images)
    versions = {**plugin.versions(), "quantcore": quantcore.__version__}
    origin = Provenance(model.name, model.fingerprint, backend, versions, image_ids=ids)
    engine = registry.load_engine(REFERENCE_ENGINE)
    options = SessionOptions(device=device, arithmetic=plans[0].arithmetic)
    # The framework's own fake quantization is what is audited, and that is in float32.
    audited_in = replace(options, arithmetic="float32")
    if not any(simulates(plugin.capabilities, sites) for sites in plans):
        audited_in = options  # nothing to open the model once more for
    with plugin.open(model, options) as session:  # parity is that of the network that calibrates
        parity = check_parity(session, engine)
        began = time.perf_counter()
        inputs = batches.inputs()
        with inputs.naming_images():
            found, kept = find_ranges(session, plans, inputs, keep_histograms, progress)
        seconds, peak = time.perf_counter() - began, session.peak_rss_mb()
        made = []
        for policy, sites, ranges in zip(policies, plans, found, strict=True):
            table = CalibrationTable(ranges, replace(origin, policy=policy.to_dict()), kept)
            made.append((sites, table, insert(model, sites, table)))
        batch = Batches(images, model.preprocessing, model.batch_size or AUDIT_IMAGES).inputs()
        audits = _audits(session, made, batch, engine) if options == audited_in else None
    if audits is None:
        with plugin.open(model, audited_in) as session:
            audits = _audits(session, made, batch, engine)
    return [
        Calibrated(
            model=model,
            table=table,
            seconds=seconds,
            peak_rss_mb=peak,
            parity=parity,
            audit=audited,
        )
        for (_, table, _), audited in zip(made, audits, strict=True)
    ]


def _audits(
    session: BackendSession,
    made: Sequence[tuple[Plan, CalibrationTable, QdqModel]],
    batches: Iterable[Array],
    engine: EnginePlugin,
) -> list[SimulationAudit | None]:
    """Each graph against the framework's own simulation of its table, on the first batch."""
    audits: list[SimulationAudit | None] = []
    for sites, table, qdq in made:
        found = None
        if simulates(session.capabilities, sites):
            with session.simulation(sites, table.tensors) as simulation:
                found = audit(simulation, qdq, sites, next(iter(batches)), engine)
        audits.append(found)
    return audits


def quantize(
    model: FloatModel,
    table: CalibrationTable,
    policy: CalibrationPolicy | None = None,
    precision: str = "int8",
) -> QdqModel:
    """The Q/DQ graph of a model and a table, from whichever framework the table came.

    Args:
        model: The float model.
        table: Calibrated on the same graph.
        policy: What to quantize; None for the policy that the table was made with.
        precision: `int8` leaves the rest in FP32, `int8+fp16` writes it in FP16.

    Raises:
        UsageError: An unknown precision.
    """
    policy = policy or CalibrationPolicy.from_dict(table.provenance.policy)
    return typed(model, insert(model, plan(model, policy), table), policy, precision)


def typed(model: FloatModel, qdq: QdqModel, policy: CalibrationPolicy, precision: str) -> QdqModel:
    """The Q/DQ graph with what stays unquantized in the wanted precision."""
    found = with_precision(model, qdq.proto, policy, precision)
    manifest = {**qdq.manifest, "precision": precision, "kept_fp32": dict(found.kept)}
    return QdqModel(found.proto, manifest)


def evaluate(
    model: FloatModel,
    graph: onnx.ModelProto | Path,
    data: Data,
    how: Evaluation,
    runtime: Runtime | None = None,
    what: str = "evaluation",
) -> Evaluated:
    """Accuracy and speed of a graph of the model, float or Q/DQ, raw heads or decoded.

    Args:
        model: Says how images go in and how boxes come out.
        graph: The graph, or the file that the engine built from it; what a file quantizes is not
            known, so there is no INT8 audit of it.
        data: What to evaluate on.
        how: Engine, its options, and how much is run.
        runtime: Where the work is done and kept; None for this process, keeping nothing.
        what: Names the graph in errors.

    Raises:
        DataError: The data set is unusable, or has another number of classes.
        EngineError: The engine refuses the graph, the file or the options.
    """
    runtime = runtime or Runtime(InProcess())
    dataset = CocoDataset.open(data.root, data.evaluation)
    plugin = registry.load_engine(how.engine)
    timing = LatencyTest(batch=noise(model), warmup=how.warmup, runs=how.runs)
    found, measured = _run(what, model, graph, dataset, how, timing, runtime)
    assert measured is not None
    audited = None if isinstance(graph, Path) else int8_audit(plugin, graph, list(measured.layers))
    return Evaluated(
        detection=found.detection,
        latency=measured.latency,
        engine=how.engine,
        versions=plugin.versions(),
        peak_rss_mb=measured.peak_rss_mb,
        int8=audited if audited and audited.layers else None,
        map_draws=found.draws,
        runs_on=measured.runs_on,
    )


def _run(
    what: str,
    model: FloatModel,
    graph: onnx.ModelProto | Path,
    dataset: CocoDataset,
    how: Evaluation,
    timing: LatencyTest | None,
    runtime: Runtime,
) -> tuple[Scored, Measured | None]:
    """What a graph finds on a data set and how that scores; how it runs, where it is timed."""
    category_ids = dataset.check_classes(model.class_names)
    images = dataset.select(how.images)
    running = RunSettings(
        engine=how.engine, options=how.options, batch_size=model.batch_size or how.batch_size
    )
    job = graph_job(what, model, graph, images, running, timing, runtime.progress)
    values = runtime.run(job)
    found = [value for value in values if isinstance(value, Found)]
    measured = next((value for value in values if isinstance(value, Measured)), None)
    keys = [piece.key for piece in job.pieces[: len(images)]]
    return runtime.one(scores_job(what, dataset, images, found, category_ids, keys)), measured


def neighbouring_maps(
    model: FloatModel,
    table: CalibrationTable,
    policy: CalibrationPolicy,
    precision: str,
    data: Data,
    how: Evaluation,
    count: int,
    runtime: Runtime | None = None,
) -> list[float | None]:
    """The mAP of graphs that hardly differ from a table's; see `quantcore.analysis.neighbours`.

    Args:
        model: See `quantize`, as the next three.
        table: As there.
        policy: As there.
        precision: As there.
        data: What to evaluate on.
        how: Engine, its options, and how much is run; latency is not measured.
        count: How many graphs.
        runtime: Where the work is done and kept; None for this process, keeping nothing.

    Raises:
        QuantcoreError: As `quantize` and `evaluate`.
    """
    runtime = runtime or Runtime(InProcess())
    dataset = CocoDataset.open(data.root, data.evaluation)
    maps = []
    for number, moved in enumerate(neighbours(table, count), 1):
        graph = quantize(model, moved, policy, precision).proto
        what = f"similar graph {number}"
        scored, _ = _run(what, model, graph, dataset, how, None, runtime)
        maps.append(scored.detection.map)
    return maps


def save_qdq(qdq: QdqModel, path: Path) -> None:
    """Writes the graph, and its manifest beside it as `<name>.manifest.json`."""
    write_whole(path, qdq.proto.SerializeToString())
    manifest = json.dumps(dict(qdq.manifest), indent=1, sort_keys=True) + "\n"
    write_whole(path.with_suffix(".manifest.json"), manifest)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Reads an ONNX graph.

    Raises:
        CheckpointError: Not there, or not ONNX.
    """
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf, the checker and the file system each have their own
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not a readable ONNX graph: {reason}") from None
    return proto
