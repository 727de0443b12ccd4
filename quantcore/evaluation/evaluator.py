"""The one evaluator: any engine, any model, the same images, the same metric for each task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantcore.contracts.engine import Engine
from quantcore.data.batches import Batches
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.finding import find_predictions
from quantcore.evaluation.latency import Stopwatch
from quantcore.evaluation.tasks import task_of
from quantcore.ir.decoding import LIMITS, Limits
from quantcore.ir.model import Array, FloatModel
from quantcore.results.evaluation import Accuracy
from quantcore.runtime.progress import Progress, Silent


@dataclass(frozen=True)
class Clocks:
    """Time for reading and letterboxing, in the engine, and for decoding."""

    reading: Stopwatch = field(default_factory=Stopwatch)
    running: Stopwatch = field(default_factory=Stopwatch)
    finding: Stopwatch = field(default_factory=Stopwatch)


def evaluate(
    engine: Engine,
    model: FloatModel,
    dataset: Dataset,
    *,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 1,
    limits: Limits = LIMITS,
    implementation: str = "hotcoco",
    progress: Progress | None = None,
) -> tuple[Accuracy, Predictions]:
    """Runs images through an engine and scores what it finds.

    Args:
        engine: Built from the model's float graph, its Q/DQ graph, or either with the decoding
            drawn in; a graph with a fixed batch size overrules `batch_size`.
        model: Says how images go in, what comes out, and what it is for.
        dataset: Images and ground truth.
        images: How many images; None for all.
        seed: Of the sample, where not all are taken.
        batch_size: Images in a batch.
        limits: Which boxes count.
        implementation: Of the COCO metric: `hotcoco` or `pycocotools`.
        progress: Where to report.

    Raises:
        DataError: The images or annotations are unusable, or have other classes than the model.
        ModelError: The outputs do not fit the model's decoding.
        EngineError: The engine failed.
    """
    task = task_of(model)
    category_ids = task.check(dataset, model.class_names)
    clocks, found = Clocks(), dict[int, Array]()
    chosen = dataset.select(images, seed)
    for part in detect(engine, model, chosen, limits, batch_size, progress, clocks):
        found.update(part)
    predictions = task.predictions(found, category_ids)
    scores = task.score(dataset, predictions, implementation)
    result = task.result(
        scores,
        images=len(found),
        preprocess_ms=clocks.reading.ms_per(len(found)),
        inference_ms=clocks.running.ms_per(len(found)),
        postprocess_ms=clocks.finding.ms_per(len(found)),
    )
    return result, predictions


def detect(
    engine: Engine,
    model: FloatModel,
    images: Sequence[ImageFile],
    limits: Limits = LIMITS,
    batch_size: int = 1,
    progress: Progress | None = None,
    clocks: Clocks | None = None,
) -> Iterator[dict[int, Array]]:
    """Runs images through an engine, batch by batch; what `evaluate` scores.

    Args:
        engine: See `evaluate`.
        model: Likewise.
        images: What to run.
        limits: Which boxes count.
        batch_size: Images in a batch.
        progress: Where to report.
        clocks: Where the time that each part takes is added up.

    Yields:
        After each batch what was found, by image id; see `Predictions.by_image`.
    """
    clocks = clocks or Clocks()
    batch_size = engine.input_shape[0] or batch_size
    batches = Batches(images, model.preprocessing, batch_size)
    for batch in (progress or Silent()).track(batches, "evaluate"):
        clocks.reading.seconds += batch.seconds
        with clocks.running.running():
            outputs = infer(engine, batch.images, batch_size)
        with clocks.finding.running():
            found = find_predictions(outputs, model, batch.placements, limits)
        yield dict(zip(batch.image_ids, found, strict=True))


def infer(engine: Engine, images: Array, batch_size: int) -> dict[str, Array]:
    """Runs a batch; fills it up where the engine takes full batches only.

    Args:
        engine: Runs it.
        images: Up to `batch_size` x 3 x H x W.
        batch_size: What the engine takes.

    Raises:
        EngineError: The engine failed.
    """
    count = len(images)
    if count < batch_size and engine.input_shape[0] is not None:
        filler = np.repeat(images[-1:], batch_size - count, axis=0)
        images = np.concatenate([images, filler])
    return {name: output[:count] for name, output in engine.infer(images).items()}
