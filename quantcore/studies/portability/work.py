"""The work of a portability study that runs in processes of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.front import front
from quantcore.contracts.session import SessionOptions
from quantcore.data.batches import Batches
from quantcore.data.dataset import ImageFile
from quantcore.engines import REFERENCE_ENGINE
from quantcore.engines.simulation import SimulationEngine
from quantcore.evaluation.jobs import Found, RunSettings, found_on, image_pieces, read_by
from quantcore.ir.model import FloatModel
from quantcore.qdq.placement import Plan
from quantcore.runtime.jobs import Job
from quantcore.runtime.progress import Progress
from quantcore.studies.probe import layers_probe, noise_name, signal_name, whole_probe
from quantcore.table.table import TensorRange

#: JSON has no infinity; as in `quantcore.results.audit.SimulationAudit`.
_LIMIT = 999.0


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A backend's own fake-quant forward with the ranges of a table.

    Attributes:
        backend: Backend name; need not be the one that found the ranges.
        device: Where it computes.
        arithmetic: In what, as `SessionOptions.arithmetic`.
        plan: What is quantized.
        ranges: By tensor name.
    """

    backend: str
    device: str
    arithmetic: str
    plan: Plan
    ranges: Mapping[str, TensorRange]


def simulation_job(
    what: str,
    model: FloatModel,
    images: Sequence[ImageFile],
    how: Simulated,
    settings: RunSettings,
    progress: Progress,
) -> Job[Found]:
    """Runs images through a simulation; a `Found` for each, in order.

    Args:
        what: Names the job in errors.
        model: The float model.
        images: What to run.
        how: The simulation.
        settings: Batch size and limits; the engine in it plays no part.
        progress: Where reading the images' files reports.

    Raises:
        RangeError: The table lacks a site of the plan.
    """
    versions = dict(registry.load_backend(how.backend).versions())
    sites = [(site, how.ranges.get(site.tensor)) for site in how.plan.sites]
    run = ("simulation", how.backend, versions, how.device, how.arithmetic, model.fingerprint)
    about = (run, sites, settings.batch_size, settings.limits)
    pieces = tuple(image_pieces(model, images, about, progress))
    return Job(
        what=what,
        function=_simulate,
        arguments=(model, how, settings),
        pieces=pieces,
        needs=registry.needed(registry.BACKENDS, how.backend, how.device),
        reads=read_by(images, progress),
    )


def _simulate(
    model: FloatModel,
    how: Simulated,
    settings: RunSettings,
    wanted: Sequence[ImageFile],
    progress: Progress,
) -> Iterator[tuple[int, Found]]:
    options = SessionOptions(device=how.device, arithmetic=how.arithmetic)
    plugin = registry.load_backend(how.backend)
    opened = front(model, [how.plan], plugin.capabilities.operators)
    with (
        plugin.open(opened, options) as session,
        SimulationEngine(session.simulation(how.plan, how.ranges)) as engine,
    ):
        yield from found_on(engine, model, wanted, settings, progress)


def layer_errors(
    model: FloatModel,
    quantized: onnx.ModelProto,
    layers: tuple[str, ...],
    images: tuple[ImageFile, ...],
    progress: Progress,
    alone: bool = True,
) -> dict[str, float]:
    """SQNR of each quantized layer's output, in dB.

    10 * log10(signal / noise), both summed over the images; 999 where there is no error, -999 where
    there is no signal.

    Args:
        model: The float model.
        quantized: Its Q/DQ graph.
        layers: Names of its quantized layers.
        images: Few will do: a layer's own error hardly differs between images.
        progress: Where to report.
        alone: Whether each layer is quantized alone; else all that come before it are too.
    """
    infos = [layer for layer in model.layers if layer.name in set(layers)]
    probe = (layers_probe if alone else whole_probe)(model, quantized, infos)
    sums = {name: [0.0, 0.0] for name in layers}
    batches = Batches(images, model.preprocessing, model.batch_size or 1)
    plugin = registry.load_engine(REFERENCE_ENGINE)
    with plugin.build(probe, EngineOptions(threads=1, exact=True)) as engine:
        for batch in progress.track(batches.inputs(), "errors of the layers"):
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
