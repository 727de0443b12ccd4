"""The one evaluator: any engine, any model, the same images, the same metric."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantcore.data.batches import Batch, Batches
from quantcore.data.coco import CocoDataset
from quantcore.engine import Engine
from quantcore.errors import ModelError, UsageError
from quantcore.evaluation.coco import score
from quantcore.evaluation.decode import DECODED, decode_candidates
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.latency import Stopwatch
from quantcore.evaluation.nms import nms
from quantcore.ir import Array, Decoding, FloatModel
from quantcore.progress import Progress, Silent
from quantcore.results import DetectionResult


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
    _check_limits(conf, iou, max_detections)
    category_ids = dataset.check_classes(model.class_names)
    batch_size = engine.input_shape[0] or batch_size
    batches = Batches(dataset.select(images, seed), model.preprocessing, batch_size)
    reading, running, finding = Stopwatch(), Stopwatch(), Stopwatch()
    found: dict[int, Array] = {}
    for batch in (progress or Silent()).track(batches, "evaluate"):
        reading.seconds += batch.seconds
        with running.running():
            outputs = _infer(engine, batch.images, batch_size)
        with finding.running():
            found.update(_detect(outputs, batch, model, (conf, iou, max_detections)))
    detections = Detections(found, category_ids)
    scores = score(dataset, detections, implementation)
    result = DetectionResult(
        **scores.figures,
        per_class=scores.per_class,
        images=len(found),
        preprocess_ms=reading.ms_per(len(found)),
        inference_ms=running.ms_per(len(found)),
        postprocess_ms=finding.ms_per(len(found)),
    )
    return result, detections


def _check_limits(conf: float, iou: float, max_detections: int) -> None:
    """Raises UsageError for a threshold outside 0..1, or no detections allowed."""
    if not (0 <= conf <= 1 and 0 <= iou <= 1 and max_detections >= 1):
        raise UsageError(
            f"thresholds must lie in 0..1 and max. detections be 1 or more: {conf}, {iou}, "
            f"{max_detections}"
        )


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
    limits: tuple[float, float, int],
) -> dict[int, Array]:
    """Detections in original pixels by image id."""
    decoding, heads = model.decoding, list(outputs.values())
    if tuple(outputs) == (DECODED,):
        decoding = Decoding("none")
    elif set(model.output_names) <= outputs.keys():
        # An engine may list outputs in its own order.
        heads = [outputs[name] for name in model.output_names]
    conf, iou, max_detections = limits
    rows = list(decode_candidates(heads, decoding, model.preprocessing.size, conf))
    classes = rows[0].shape[1] - 5
    if classes != len(model.class_names):
        raise ModelError(
            f"{model.name}: the network scores {classes} classes, the model names "
            f"{len(model.class_names)}"
        )
    kept = nms(rows, conf, iou, max_detections)
    for found, placement in zip(kept, batch.placements, strict=True):
        found[:, :4] = placement.to_original(found[:, :4])
    return dict(zip(batch.image_ids, kept, strict=True))
