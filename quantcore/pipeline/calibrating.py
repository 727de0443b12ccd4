"""From float model and images to a calibration table, with one backend."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

import quantcore
from quantcore.analysis.agreement import audit, check_parity
from quantcore.calibration.driver import find_ranges
from quantcore.contracts import registry
from quantcore.contracts.capabilities import check_capabilities, check_shows_activations, simulates
from quantcore.contracts.engine import EnginePlugin
from quantcore.contracts.front import front
from quantcore.contracts.session import BackendSession, SessionOptions
from quantcore.data.batches import Batches, Inputs
from quantcore.data.dataset import Dataset
from quantcore.data.stream import ImageStream, Source
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import DataError
from quantcore.ir.model import Array, FloatModel, QdqModel
from quantcore.pipeline.settings import Calibrated, Chosen, Data, Given
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan, plan
from quantcore.results.audit import SimulationAudit
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable, Provenance

#: Images on which a Q/DQ graph is held against the framework's own simulation.
AUDIT_IMAGES = 2


def calibrate(
    model: FloatModel,
    data: Given | Chosen | Source,
    *,
    backend: str,
    policy: CalibrationPolicy | None = None,
    device: str = "auto",
    threads: int | None = None,
    keep_histograms: bool = False,
    progress: Progress | None = None,
) -> Calibrated:
    """Calibrates a model with one backend and audits the result.

    Everything that can be refused is refused before an image is read: rules, capabilities, files.

    Args:
        model: The float model.
        data: What to calibrate on: a data set (its calibration split, sampled by the policy's
            seed), images of one that were chosen already, or any iterable of images (H x W x 3,
            uint8, RGB), image files, or ready batches (B x 3 x h x w, floats as the network takes
            them), of which the first are taken, as many as the policy says.
        backend: Backend name.
        policy: What to calibrate and how; None for the default.
        device: Where the framework computes: `auto`, `cpu` or `cuda`.
        threads: CPU threads of the framework; None leaves it to the framework.
        keep_histograms: The table keeps what any portable observer reads. The frameworks' own
            calibrators hide it, so that `implementation: native` then takes a second pass.
        progress: Where long work reports.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    policies = (policy or CalibrationPolicy(),)
    options = SessionOptions(device=device, threads=threads)
    given = (data, policies, backend, options, keep_histograms, progress)
    return calibrate_each(model, *given)[0]


def calibrate_each(
    model: FloatModel,
    data: Given | Chosen | Source,
    policies: Sequence[CalibrationPolicy],
    backend: str,
    options: SessionOptions | None = None,
    keep_histograms: bool = False,
    progress: Progress | None = None,
) -> list[Calibrated]:
    """As `calibrate`, for policies that differ in their observers alone: one pass serves all.

    Args:
        model: See `calibrate`.
        data: See `calibrate`.
        policies: One, or several portable ones; images, batch size, seed and arithmetic are the
            first's.
        backend: See `calibrate`.
        options: Device and threads; the arithmetic is the policies'.
        keep_histograms: See `calibrate`.
        progress: See `calibrate`.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    plugin = registry.load_backend(backend)
    plans = [plan(model, policy) for policy in policies]
    for sites in plans:
        check_capabilities(backend, plugin.capabilities, sites)
    if keep_histograms or len(plans) > 1:
        check_shows_activations(backend, plugin.capabilities)
    images = images_of(model, data, policies[0], keep_histograms)
    engine = registry.load_engine(REFERENCE_ENGINE)
    options = replace(options or SessionOptions(), arithmetic=plans[0].arithmetic)
    # The framework's own fake quantization is what is audited, and that is in float32.
    audited_in = replace(options, arithmetic="float32")
    if not any(simulates(plugin.capabilities, sites) for sites in plans):
        audited_in = options  # nothing to open the model once more for
    opened = front(model, plans, plugin.capabilities.operators)
    with plugin.open(opened, options) as session:  # parity is that of the network that calibrates
        parity = check_parity(session, engine)
        began = time.perf_counter()
        with images.naming():
            found, kept = find_ranges(session, plans, images, keep_histograms, progress)
        seconds, peak = time.perf_counter() - began, session.peak_rss_mb()
        origin = Provenance(
            model.name,
            model.fingerprint,
            backend,
            {**plugin.versions(), "quantcore": quantcore.__version__},
            image_ids=images.ids,
        )
        made = []
        for policy, sites, ranges in zip(policies, plans, found, strict=True):
            table = CalibrationTable(ranges, replace(origin, policy=policy.to_dict()), kept)
            made.append((sites, table, insert(model, sites, table)))
        audits = _audits(session, made, images.first, engine) if options == audited_in else None
    if audits is None:
        with plugin.open(opened, audited_in) as session:
            audits = _audits(session, made, images.first, engine)
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
    batch: Array,
    engine: EnginePlugin,
) -> list[SimulationAudit | None]:
    """Each graph against the framework's own simulation of its table, on one batch."""
    audits: list[SimulationAudit | None] = []
    for sites, table, qdq in made:
        found = None
        if simulates(session.capabilities, sites):
            with session.simulation(sites, table.tensors) as simulation:
                found = audit(simulation, qdq, sites, batch, engine)
        audits.append(found)
    return audits


class CalibrationImages:
    """What is calibrated on, batch by batch; remembers the first images for the audit.

    Args:
        inputs: Batches B x 3 x h x w.
        ids: Of the images; None where they are numbered as they come.
        remembered: How many are kept.
    """

    def __init__(
        self, inputs: Inputs | ImageStream, ids: tuple[int, ...] | None, remembered: int
    ) -> None:
        self._inputs, self._ids, self._remembered = inputs, ids, remembered
        self._first: list[Array] = []

    def __iter__(self) -> Iterator[Array]:
        self._first.clear()
        for batch in self._inputs:
            if sum(map(len, self._first)) < self._remembered:
                self._first.append(batch)
            yield batch

    @property
    def first(self) -> Array:
        """The first images of the last pass."""
        return np.concatenate(self._first)[: self._remembered]

    @property
    def ids(self) -> tuple[int, ...]:
        """Of all images, in their order."""
        if self._ids is not None:
            return self._ids
        return tuple(range(self._inputs.seen if isinstance(self._inputs, ImageStream) else 0))

    def naming(self) -> AbstractContextManager[None]:
        """Names the images in errors about ranges."""
        return self._inputs.naming_images()


class _Counted(CalibrationImages):
    """Images whose number is known, so that progress can tell the time left."""

    def __len__(self) -> int:
        return len(self._inputs) if isinstance(self._inputs, Inputs) else 0


def images_of(
    model: FloatModel,
    data: Given | Chosen | Source,
    policy: CalibrationPolicy,
    twice: bool = False,
) -> CalibrationImages:
    """The images that a policy asks for.

    Args:
        model: Says how images go in.
        data: See `calibrate`.
        policy: Says how many, which, and in what batches.
        twice: Whether two passes may be needed.

    Raises:
        DataError: The data set is unusable, or a generator is to be read twice.
    """
    batch_size = model.batch_size or policy.batch_size
    remembered = model.batch_size or AUDIT_IMAGES
    if isinstance(data, Data | Dataset | str | Path):
        data = Data.of(data)
        data = Chosen(data.calibration_set().select(policy.images, policy.seed))
    if isinstance(data, Chosen):
        chosen = data.images
        inputs = Batches(chosen, model.preprocessing, batch_size).inputs()
        return _Counted(inputs, tuple(image.id for image in chosen), remembered)
    stream = ImageStream(data, model.preprocessing, batch_size, policy.images)
    if stream.once and twice and policy.implementation == "native":
        raise DataError(
            "keeping histograms beside a framework's own calibrator takes two passes over the "
            "images, and a generator can be read once; give a list"
        )
    return CalibrationImages(stream, None, remembered)
