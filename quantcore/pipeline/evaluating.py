"""Accuracy and speed of a graph on an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from quantcore.analysis.agreement import noise
from quantcore.analysis.neighbours import neighbours
from quantcore.analysis.scoring import Scored, scores_job
from quantcore.contracts import registry
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.data.opening import open_dataset
from quantcore.engines.audit import audit as int8_audit
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.jobs import Found, Look, Measured, RunSettings, graph_job
from quantcore.evaluation.latency import LatencyTest
from quantcore.evaluation.tasks import task_of
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.pipeline.graphs import quantize
from quantcore.pipeline.settings import DEFAULT_EVALUATION, Data, Evaluation, Given
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.comparison import Evaluated
from quantcore.runtime.executor import InProcess
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.notes import note
from quantcore.table.table import CalibrationTable


def evaluate(
    model: FloatModel,
    graph: QdqModel | onnx.ModelProto | Path | None,
    data: Given,
    how: Evaluation = DEFAULT_EVALUATION,
    runtime: Runtime | None = None,
    what: str = "evaluation",
) -> Evaluated:
    """Accuracy and speed of a graph of the model, float or Q/DQ, raw heads or decoded.

    Args:
        model: Says how images go in and what comes out.
        graph: The graph, None for the float one, or the file that the engine built from it; what a
            file quantizes is not known, so there is no INT8 audit of it.
        data: What to evaluate on; a folder, or a folder and its splits.
        how: Engine, its options, and how much is run.
        runtime: Where the work is done and kept; None for this process, keeping nothing.
        what: Names the graph in errors.

    Raises:
        DataError: The data set is unusable, or has another number of classes.
        EngineError: The engine refuses the graph, the file or the options.
    """
    runtime, data = runtime or Runtime(InProcess()), Data.of(data)
    graph = graph.proto if isinstance(graph, QdqModel) else graph or model.proto
    dataset = open_dataset(data.root, data.evaluation)
    plugin = registry.load_engine(how.engine)
    test = LatencyTest(batch=noise(model), warmup=how.warmup, runs=how.runs) if how.runs else None
    found, measured = _run(what, model, graph, dataset, how, Look(test=test), runtime)
    assert measured is not None
    accuracy = found.accuracy(task_of(model))
    if accuracy.main == 0:
        note(
            f"{what}: nothing of what is annotated was found in {accuracy.images} images "
            f"({accuracy.metric.title} 0.000); check that weights, preprocessing (preset) and data "
            "set belong together"
        )
    audited = None if isinstance(graph, Path) else int8_audit(plugin, graph, list(measured.layers))
    return Evaluated(
        accuracy=accuracy,
        latency=measured.latency,
        engine=how.engine,
        versions=plugin.versions(),
        peak_rss_mb=measured.peak_rss_mb,
        int8=audited if audited and audited.layers else None,
        draws=found.draws,
        runs_on=measured.runs_on,
    )


def predictions(
    model: FloatModel,
    graph: onnx.ModelProto,
    data: Data,
    how: Evaluation,
    runtime: Runtime,
    what: str = "evaluation",
) -> Predictions:
    """What a graph finds on the evaluation split, by image; see `evaluate`.

    Raises:
        QuantcoreError: As `evaluate`.
    """
    dataset, task = open_dataset(data.root, data.evaluation), task_of(model)
    images, values, _ = _found(what, model, graph, dataset, how, None, runtime)
    by_image = {
        image.id: found.prediction
        for image, found in zip(images, values, strict=False)
        if isinstance(found, Found)
    }
    return task.predictions(by_image, task.check(dataset, model.class_names))


def _run(
    what: str,
    model: FloatModel,
    graph: onnx.ModelProto | Path,
    dataset: Dataset,
    how: Evaluation,
    look: Look | None,
    runtime: Runtime,
) -> tuple[Scored, Measured | None]:
    """What a graph finds on a data set and how that scores; how it runs, where that is asked."""
    task = task_of(model)
    category_ids = task.check(dataset, model.class_names)
    images, values, keys = _found(what, model, graph, dataset, how, look, runtime)
    found = [value for value in values if isinstance(value, Found)]
    measured = next((value for value in values if isinstance(value, Measured)), None)
    return runtime.one(scores_job(what, task, dataset, images, found, category_ids, keys)), measured


def _found(
    what: str,
    model: FloatModel,
    graph: onnx.ModelProto | Path,
    dataset: Dataset,
    how: Evaluation,
    look: Look | None,
    runtime: Runtime,
) -> tuple[Sequence[ImageFile], list[Found | Measured], list[str]]:
    """The images of a data set, what a graph finds on each, and the keys of that."""
    images = dataset.select(how.images)
    dataset.labels_of(images)  # labels that are no good are refused before anything is run
    running = RunSettings(
        engine=how.engine, options=how.options, batch_size=model.batch_size or how.batch_size
    )
    job = graph_job(what, model, graph, images, running, look, runtime)
    return images, runtime.run(job), [piece.key for piece in job.pieces[: len(images)]]


def neighbouring_figures(
    model: FloatModel,
    table: CalibrationTable,
    policy: CalibrationPolicy,
    precision: str,
    data: Data,
    how: Evaluation,
    count: int,
    runtime: Runtime | None = None,
) -> list[float | None]:
    """The main figures of graphs that hardly differ from a table's; see `analysis.neighbours`.

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
    dataset = open_dataset(data.root, data.evaluation)
    figures, main = [], task_of(model).metric.name
    for number, moved in enumerate(neighbours(table, count), 1):
        graph = quantize(model, moved, policy, precision).proto
        what = f"similar graph {number}"
        scored, _ = _run(what, model, graph, dataset, how, None, runtime)
        figures.append(scored.scores.figures[main])
    return figures
