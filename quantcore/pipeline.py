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
from quantcore.analysis.resample import map_draws
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
from quantcore.evaluation.evaluator import evaluate as run_evaluation
from quantcore.evaluation.latency import measure
from quantcore.ir.model import Array, FloatModel, QdqModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan, plan
from quantcore.qdq.precision import with_precision
from quantcore.results.audit import Audit
from quantcore.results.comparison import Evaluated
from quantcore.results.rewrites import Equalized
from quantcore.rewrites.equalization import ALPHA
from quantcore.rewrites.equalization import equalize as equalized
from quantcore.runtime.files import write_whole
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import peak_rss_mb
from quantcore.table.table import CalibrationTable, Provenance

CALIBRATION_SPLIT = "train2017"
EVALUATION_SPLIT = "val2017"
AUDIT_IMAGES = 2


@dataclass(frozen=True)
class Calibrated:
    """A calibration and what it cost.

    Attributes:
        table: The ranges.
        qdq: The shared graph made from them.
        seconds: Wall time of the calibration alone, reading images included.
        peak_rss_mb: Peak resident memory of the process up to its end.
        parity: Relative difference of the materialised network from the float graph.
        audit: The Q/DQ graph against the framework's own simulation, None where it has none for the
            codes.
    """

    table: CalibrationTable
    qdq: QdqModel
    seconds: float
    peak_rss_mb: float
    parity: float
    audit: Audit | None


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
    return registry.load_model(name).load(weights, options or ModelOptions())


def equalize(
    model: FloatModel,
    data: Data,
    images: int,
    seed: int = 0,
    alpha: float = ALPHA,
    progress: Progress | None = None,
) -> Equalized:
    """The model with channels of like ranges, found on calibration images; the same in float.

    Args:
        model: The float model.
        data: Where the images are.
        images: How many.
        seed: Which ones, as in a policy.
        alpha: See `quantcore.rewrites.equalization.equalize`.
        progress: Where to report.

    Raises:
        QuantcoreError: As there.
    """
    chosen = CocoDataset.open(data.root, data.calibration).select(images, seed)
    batches = Batches(chosen, model.preprocessing, model.batch_size or 1)
    engine = registry.load_engine(REFERENCE_ENGINE)
    return equalized(model, batches, engine, alpha, progress)


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
        cost = (time.perf_counter() - began, session.peak_rss_mb(), parity)
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
        Calibrated(table, qdq, *cost, audited)
        for (_, table, qdq), audited in zip(made, audits, strict=True)
    ]


def _audits(
    session: BackendSession,
    made: Sequence[tuple[Plan, CalibrationTable, QdqModel]],
    batches: Iterable[Array],
    engine: EnginePlugin,
) -> list[Audit | None]:
    """Each graph against the framework's own simulation of its table, on the first batch."""
    audits: list[Audit | None] = []
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
    progress: Progress | None = None,
) -> Evaluated:
    """Accuracy and speed of a graph of the model, float or Q/DQ, raw heads or decoded.

    Args:
        model: Says how images go in and how boxes come out.
        graph: The graph, or the file that the engine built from it; what a file quantizes is not
            known, so there is no INT8 audit of it.
        data: What to evaluate on.
        how: Engine, its options, and how much is run.
        progress: Where to report.

    Raises:
        DataError: The data set is unusable, or has another number of classes.
        EngineError: The engine refuses the graph, the file or the options.
    """
    progress = progress or Silent()
    dataset = CocoDataset.open(data.root, data.evaluation)
    dataset.check_classes(model.class_names)
    plugin = registry.load_engine(how.engine)
    engine = (
        plugin.load(graph, how.options)
        if isinstance(graph, Path)
        else plugin.build(graph, how.options)
    )
    with engine:
        batch_size = model.batch_size or how.batch_size
        detection, detections = run_evaluation(
            engine, model, dataset, images=how.images, batch_size=batch_size, progress=progress
        )
        latency = measure(engine, noise(model), warmup=how.warmup, runs=how.runs, progress=progress)
        peak = peak_rss_mb()
        runs_on = engine.runs_on()
        found = None if isinstance(graph, Path) else int8_audit(plugin, graph, engine.layers())
    return Evaluated(
        detection,
        latency,
        how.engine,
        plugin.versions(),
        peak,
        found if found and found.layers else None,
        map_draws(dataset, detections, progress=progress),
        runs_on,
    )


def neighbouring_maps(
    model: FloatModel,
    table: CalibrationTable,
    policy: CalibrationPolicy,
    precision: str,
    data: Data,
    how: Evaluation,
    count: int,
    progress: Progress | None = None,
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
        progress: Where to report.

    Raises:
        QuantcoreError: As `quantize` and `evaluate`.
    """
    dataset = CocoDataset.open(data.root, data.evaluation)
    plugin = registry.load_engine(how.engine)
    found = []
    for moved in neighbours(table, count):
        graph = quantize(model, moved, policy, precision).proto
        with plugin.build(graph, how.options) as engine:
            result, _ = run_evaluation(
                engine,
                model,
                dataset,
                images=how.images,
                batch_size=model.batch_size or how.batch_size,
                progress=progress,
            )
        found.append(result.map)
    return found


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
