"""The backend under test, and what several checks need of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from quantcore.calibration.driver import calibrate
from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin, BackendSession, SessionOptions
from quantcore.contracts.engine import EngineOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, plan
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable, Provenance, TensorRange
from quantcore.testing.models import Stream, small_detector

Ranges = dict[str, TensorRange]

#: Keeping the observed activations of 480 images of the small detector would take 25 MB.
GROWTH_LIMIT_MB = 16.0


@dataclass(frozen=True)
class BackendUnderTest:
    """A backend under test."""

    name: str
    _kept: dict[tuple[CalibrationPolicy, int, int], tuple[FloatModel, Plan, Ranges]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def plugin(self) -> BackendPlugin:
        """A fresh plugin, loaded as the core loads it."""
        return registry.load_backend(self.name)

    def open(self, model: FloatModel, arithmetic: str = "float32") -> BackendSession:
        """The model in a fresh plugin, on the device that every machine has."""
        return self.plugin.open(model, SessionOptions(device="cpu", arithmetic=arithmetic))

    def observers(self) -> list[str]:
        """The native activation observers that it declares."""
        return sorted(self.plugin.capabilities.activation_observers)

    def first_observer(self) -> str:
        """`max` where it has it: the one whose result is known beforehand."""
        return "max" if "max" in self.observers() else self.observers()[0]

    def policy(self, observer: str | None = None, **keys: object) -> CalibrationPolicy:
        """A policy that the backend should accept."""
        known = self.plugin.capabilities
        weights = known.weight_granularities
        granularity = "per_channel" if "per_channel" in weights else "per_tensor"
        activations: dict[str, object] = {"observer": observer or self.first_observer()}
        # A coarse search where there is one: the checks ask whether it works, not how well.
        if "stride" in known.activation_observers.get(str(activations["observer"]), ()):
            activations["stride"] = 16
        data = {
            "placement": "minimal",  # the small detector's layers are too narrow for others
            "activations": activations,
            "weights": {"granularity": granularity},
            **keys,
        }
        return CalibrationPolicy.from_dict(data)

    def ranges(
        self, policy: CalibrationPolicy, count: int = 16, batch_size: int = 4
    ) -> tuple[FloatModel, Plan, Ranges]:
        """A calibration of the small detector: one that was asked for before, or a new one."""
        key = (policy, count, batch_size)
        if key not in self._kept:
            self._kept[key] = self.calibrated(*key)
        return self._kept[key]

    def calibrated(
        self, policy: CalibrationPolicy, count: int = 16, batch_size: int = 4
    ) -> tuple[FloatModel, Plan, Ranges]:
        """A new calibration of the small detector, in a session of its own."""
        model = small_detector()
        sites = plan(model, policy)
        with self.open(model, arithmetic=sites.arithmetic) as session:
            return model, sites, calibrate(session, sites, Stream(count, batch_size))


def hold(promise: object, message: str) -> None:
    """Raises AssertionError with the message where a promise is broken, under `python -O` too."""
    if not promise:
        raise AssertionError(message)


def magnitudes(model: FloatModel, sites: Plan, batch: Array) -> dict[str, float]:
    """Largest magnitude of each observed activation, by the reference engine."""
    names = [s.tensor for s in sites.sites if s.role == "activation" and s.tensor != "images"]
    engine = registry.load_engine(REFERENCE_ENGINE)
    with engine.build(exposed(model.proto, names), EngineOptions()) as built:
        values = built.infer(batch)
    found = {name: float(np.abs(values[name]).max()) for name in names}
    if any(s.tensor == "images" for s in sites.sites):
        found["images"] = float(np.abs(batch).max())
    return found


def table_of(backend: BackendUnderTest, model: FloatModel, ranges: Ranges) -> CalibrationTable:
    """The ranges as a table with some provenance."""
    policy = backend.policy().to_dict()
    provenance = Provenance(model.name, model.fingerprint, backend.name, {}, policy, (1, 2, 3))
    return CalibrationTable(ranges, provenance)


def interrupted() -> Iterator[Array]:
    """Brighter batches than any other, then what Ctrl-C does."""
    for batch in Stream(4):
        yield batch * np.float32(10)
    raise KeyboardInterrupt


def growth_of(name: str, observers: Sequence[str], progress: Progress) -> dict[str, float]:
    """MB that sixteen times the images add to the peak memory; runs in a process of its own.

    All calibrations run in one process, the small ones first, so that what a framework takes to
    start is in none.
    """
    backend, model = BackendUnderTest(name), small_detector()
    plans = {observer: plan(model, backend.policy(observer)) for observer in observers}
    grown = {}
    with backend.open(model) as session:
        for sites in plans.values():
            calibrate(session, sites, Stream(32))
        before = session.peak_rss_mb()
        for observer, sites in plans.items():
            calibrate(session, sites, Stream(512))
            peak = session.peak_rss_mb()
            grown[observer], before = peak - before, peak
    return grown
