"""The one evaluator: any engine, any model, the same images, the same metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantcore.contracts.engine import Engine
from quantcore.data.batches import Batch, Batches
from quantcore.data.coco import CocoDataset, CocoImage
from quantcore.errors import ModelError, UsageError
from quantcore.evaluation.coco import score
from quantcore.evaluation.decode import DECODED, decode_candidates
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.latency import Stopwatch
from quantcore.evaluation.nms import nms
from quantcore.ir.model import Array, Decoding, FloatModel
from quantcore.results.evaluation import DetectionResult
from quantcore.runtime.progress import Progress, Silent


@dataclass(frozen=True)
class Limits:
    """Which boxes count as detections.

    Attributes:
        conf: Detections must score higher.
        iou: NMS threshold.
        detections: At most so many for an image.
    """

    conf: float = 0.001
    iou: float = 0.65
    detections: int = 300

    def __post_init__(self) -> None:
        """Raises UsageError for a threshold outside 0..1, or no detections allowed."""
        if not (0 <= self.conf <= 1 and 0 <= self.iou <= 1 and self.detections >= 1):
            raise UsageError(
                f"thresholds must lie in 0..1 and max. detections be 1 or more: {self.conf}, "
                f"{self.iou}, {self.detections}"
            )


@dataclass(frozen=True)
class Clocks:
    """Time for reading and letterboxing, in the engine, and for decoding and NMS."""

    reading: Stopwatch = field(default_factory=Stopwatch)
    running: Stopwatch = field(default_factory=Stopwatch)
    finding: Stopwatch = field(default_factory=Stopwatch)


def evaluate(
    engine: Engine,
    model: FloatModel,
    dataset: CocoDataset,
    *,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 1,
    conf: float = 0.001,
    iou: float = 0.65,
    max_detections: int = 300,
    implementation: str = "hotcoco",
    progress: Progress | None = None,
) -> tuple[DetectionResult, Detections]:
    """Runs images through an engine and scores what it finds.

    Args:
        engine: Built from the model's float graph, its Q/DQ graph, or either with the decoding
            drawn in; a graph with a fixed batch size overrules `batch_size`.
        model: Says how images go in and how boxes come out.
        dataset: Images and ground truth.
        images: How many images; None for all.
        seed: Of the sample, where not all are taken.
        batch_size: Images in a batch.
        conf: Detections must score higher.
        iou: NMS threshold.
        max_detections: At most so many for an image.
        implementation: `hotcoco` or `pycocotools`.
        progress: Where to report.

    Raises:
        DataError: The images or annotations are unusable, or have other classes than the model.
        ModelError: The outputs do not fit the model's decoding.
        EngineError: The engine failed.
        UsageError: A threshold outside 0..1, or no detections allowed.
    """
    limits = Limits(conf, iou, max_detections)
    category_ids = dataset.check_classes(model.class_names)
    clocks, found = Clocks(), dict[int, Array]()
    chosen = dataset.select(images, seed)
    for part in detect(engine, model, chosen, limits, batch_size, progress, clocks):
        found.update(part)
    detections = Detections(found, category_ids)
    scores = score(dataset, detections, implementation)
    result = DetectionResult(
        **scores.figures,
        per_class=scores.per_class,
        images=len(found),
        preprocess_ms=clocks.reading.ms_per(len(found)),
        inference_ms=clocks.running.ms_per(len(found)),
        postprocess_ms=clocks.finding.ms_per(len(found)),
    )
    return result, detections


def detect(
    engine: Engine,
    model: FloatModel,
    images: Sequence[CocoImage],
    limits: Limits = Limits(),
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
        After each batch its detections by image id, n x 6 in original pixels.
    """
    clocks = clocks or Clocks()
    batch_size = engine.input_shape[0] or batch_size
    batches = Batches(images, model.preprocessing, batch_size)
    for batch in (progress or Silent()).track(batches, "evaluate"):
        clocks.reading.seconds += batch.seconds
        with clocks.running.running():
            outputs = _infer(engine, batch.images, batch_size)
        with clocks.finding.running():
            found = _detect(outputs, batch, model, limits)
        yield found


def _infer(engine: Engine, images: Array, batch_size: int) -> dict[str, Array]:
    """Runs a batch; fills up the last one where the engine takes full batches only."""
    count = len(images)
    if count < batch_size and engine.input_shape[0] is not None:
        filler = np.repeat(images[-1:], batch_size - count, axis=0)
        images = np.concatenate([images, filler])
    return {name: output[:count] for name, output in engine.infer(images).items()}


def _detect(
    outputs: Mapping[str, Array],
    batch: Batch,
    model: FloatModel,
    limits: Limits,
) -> dict[int, Array]:
    """Detections in original pixels by image id."""
    decoding, heads = model.decoding, list(outputs.values())
    if tuple(outputs) == (DECODED,):
        decoding = Decoding("none")
    elif set(model.output_names) <= outputs.keys():
        # An engine may list outputs in its own order.
        heads = [outputs[name] for name in model.output_names]
    rows = list(decode_candidates(heads, decoding, model.preprocessing.size, limits.conf))
    classes = rows[0].shape[1] - 5
    if classes != len(model.class_names):
        raise ModelError(
            f"{model.name}: the network scores {classes} classes, the model names "
            f"{len(model.class_names)}"
        )
    kept = nms(rows, limits.conf, limits.iou, limits.detections)
    for found, placement in zip(kept, batch.placements, strict=True):
        found[:, :4] = placement.to_original(found[:, :4])
    return dict(zip(batch.image_ids, kept, strict=True))
