"""The work of a study that runs in processes of its own; what is finished goes to the store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from quantcore.contracts import registry
from quantcore.contracts.engine import Engine, EngineOptions
from quantcore.contracts.session import SessionOptions
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoImage
from quantcore.engines import REFERENCE_ENGINE
from quantcore.engines.simulation import SimulationEngine
from quantcore.errors import OutputError
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.evaluator import detect
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Plan
from quantcore.runtime.progress import Progress
from quantcore.runtime.store import Store
from quantcore.studies.probe import layers_probe, noise_name, signal_name
from quantcore.table.table import TensorRange

#: JSON has no infinity; as in `quantcore.analysis.agreement.Audit`.
_LIMIT = 999.0


@dataclass(frozen=True)
class Task:
    """Some images to be run through one graph or simulation.

    Attributes:
        model: The float model.
        images: What to run.
        keys: For each image the key of its detections in the store.
        folder: Of the store.
        batch_size: Images in a batch.
    """

    model: FloatModel
    images: tuple[CocoImage, ...]
    keys: tuple[str, ...]
    folder: Path
    batch_size: int = 1

    def left(self, store: Store) -> tuple[CocoImage, ...]:
        """The images that have no detections yet."""
        pairs = zip(self.images, self.keys, strict=True)
        return tuple(image for image, key in pairs if key not in store)

    def detections(self, store: Store, category_ids: tuple[int, ...]) -> Detections:
        """What was found, once nothing is left.

        Raises:
            OutputError: The store lost some of it.
        """
        found = {}
        for image, key in zip(self.images, self.keys, strict=True):
            boxes = store.get(key, Array)
            if boxes is None:
                raise OutputError(f"{store.path}: damaged while in use; run the command again")
            found[image.id] = boxes
        return Detections(found, category_ids)


def on_engine(
    task: Task, proto: onnx.ModelProto, engine: str, options: EngineOptions, progress: Progress
) -> None:
    """Runs a task's images through a graph."""
    with registry.load_engine(engine).build(proto, options) as built:
        _run(task, built, progress)


def on_simulation(
    task: Task,
    backend: str,
    device: str,
    arithmetic: str,
    plan: Plan,
    ranges: Mapping[str, TensorRange],
    progress: Progress,
) -> None:
    """Runs a task's images through a backend's own fake-quant forward.

    Args:
        task: What to run.
        backend: Backend name; need not be the one that found the ranges.
        device: Where it computes.
        arithmetic: In what, as `SessionOptions.arithmetic`.
        plan: What is quantized.
        ranges: By tensor name.
        progress: Where to report.
    """
    options = SessionOptions(device=device, arithmetic=arithmetic)
    with (
        registry.load_backend(backend).open(task.model, options) as session,
        SimulationEngine(session.simulation(plan, ranges)) as engine,
    ):
        _run(task, engine, progress)


def _run(task: Task, engine: Engine, progress: Progress) -> None:
    with Store(task.folder) as store:
        left = task.left(store)
        keys = {image.id: key for image, key in zip(task.images, task.keys, strict=True)}
        if not left:
            return
        for part in detect(engine, task.model, left, batch_size=task.batch_size, progress=progress):
            for image, boxes in part.items():
                store.put(keys[image], boxes)


def layer_errors(
    model: FloatModel,
    quantized: onnx.ModelProto,
    layers: tuple[str, ...],
    images: tuple[CocoImage, ...],
    progress: Progress,
) -> dict[str, float]:
    """SQNR of each quantized layer's output, in dB, every layer alone.

    10 * log10(signal / noise), both summed over the images; 999 where there is no error, -999 where
    there is no signal.

    Args:
        model: The float model.
        quantized: Its Q/DQ graph.
        layers: Names of its quantized layers.
        images: Few will do: a layer's own error hardly differs between images.
        progress: Where to report.
    """
    infos = [layer for layer in model.layers if layer.name in set(layers)]
    probe = layers_probe(model, quantized, infos)
    sums = {name: [0.0, 0.0] for name in layers}
    batches = Batches(images, model.preprocessing, model.batch_size or 1)
    plugin = registry.load_engine(REFERENCE_ENGINE)
    with plugin.build(probe, EngineOptions(threads=1, exact=True)) as engine:
        for batch in progress.track(batches.inputs(), "layers' own errors"):
            if model.batch_size not in (None, len(batch)):
                continue  # a last batch that is not full
            found = engine.infer(batch)
            for name, total in sums.items():
                total[0] += float(found[signal_name(name)])
                total[1] += float(found[noise_name(name)])
    return {name: _decibels(*total) for name, total in sums.items()}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return _LIMIT
    return 10 * math.log10(signal / noise) if signal > 0 else -_LIMIT
