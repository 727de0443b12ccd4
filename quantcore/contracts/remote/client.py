"""The plugin and the session that stand for those of another environment."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, fields
from pathlib import Path

from quantcore.calibration.portable import Seen
from quantcore.contracts.backend import BackendPlugin, BackendSession, FrameworkLayer
from quantcore.contracts.capabilities import (
    Capabilities,
    check_capabilities,
    check_shows_activations,
)
from quantcore.contracts.remote import wire
from quantcore.contracts.remote.peer import Peer
from quantcore.ir.model import Array, FloatModel, LayerInfo
from quantcore.qdq.placement import Plan, Site
from quantcore.runtime.worker import peak_rss_mb
from quantcore.table.statistics import Statistics
from quantcore.table.table import TensorRange


def peak_of(session: BackendSession) -> float:
    """Peak resident memory, in MB, of the process that a session computes in."""
    return session.peak_rss_mb if isinstance(session, RemoteSession) else peak_rss_mb()


def listed(name: str, python: Path) -> dict[str, str]:
    """`distribution` and `version` of a plugin in another environment; it is not imported.

    Raises:
        BackendUnavailable: The Python cannot be run, or has no quantcore or framework.
        PluginError: It has another quantcore, or no such plugin.
    """
    peer = Peer(name, python)
    try:
        found: dict[str, str] = peer.ask("listed")
        return found
    finally:
        peer.close()


class RemoteBackend(BackendPlugin):
    """Stands for a plugin of another environment; everything it tells comes from there.

    Args:
        name: Backend name.
        python: The other environment's Python.

    Raises:
        BackendUnavailable: The Python cannot be run, or has no quantcore or framework.
        PluginError: It has another quantcore, or no such plugin.
    """

    def __init__(self, name: str, python: Path) -> None:
        super().__init__(name)
        self._python = python
        self._told = _describe(name, python)
        known = wire.capabilities(self._told["capabilities"])
        self.capabilities = known  # type: ignore[misc] # for each instance, as its plugin tells
        self._peer: Peer | None = None

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return dict(self._told["versions"])

    def framework_layer(self, layer: LayerInfo) -> FrameworkLayer | None:
        """See BackendPlugin."""
        if self._peer is None:  # kept: a table of layers asks hundreds of times
            self._peer = Peer(self.name, self._python)
            weakref.finalize(self, self._peer.close)
        found = self._peer.ask("framework_layer", layer=asdict(layer))
        return wire.tupled(FrameworkLayer, found) if found else None

    def open(self, model: FloatModel, device: str = "auto") -> BackendSession:
        """See BackendPlugin."""
        return RemoteSession(self.name, self._python, model, self.capabilities, device)


@functools.lru_cache
def _describe(name: str, python: Path) -> wire.Message:
    peer = Peer(name, python)
    try:
        told: wire.Message = peer.ask("describe")
        return told
    finally:
        peer.close()


class RemoteSession(BackendSession):
    """A session of a plugin in another environment; one process for as long as it is open."""

    def __init__(
        self,
        name: str,
        python: Path,
        model: FloatModel,
        capabilities: Capabilities,
        device: str,
    ) -> None:
        super().__init__(name, model, capabilities)
        self._peer = Peer(name, python)
        try:
            (self._peer.folder / "float.onnx").write_bytes(model.proto.SerializeToString())
            described = {f.name: getattr(model, f.name) for f in fields(model)}
            del described["proto"]
            described["preprocessing"] = model.preprocessing.to_dict()
            described["decoding"] = model.decoding.to_dict()
            self._peer.ask("open", model=described, device=device)
        except BaseException:
            self._peer.close()
            raise

    @property
    def peak_rss_mb(self) -> float:
        """Peak resident memory of the other process when it last answered."""
        return self._peer.peak

    def calibrate(self, plan: Plan, batches: Iterable[Array]) -> dict[str, TensorRange]:
        """See BackendSession; the checks after the refusal are made where the ranges are."""
        check_capabilities(self.name, self.capabilities, plan)
        total = len(batches) if isinstance(batches, Sized) else None
        found = self._peer.ask(
            "calibrate", self.progress, batches, plan=wire.written(plan), total=total
        )
        return {tensor: TensorRange.from_dict(entry) for tensor, entry in found.items()}

    def collect(self, plans: Sequence[Plan], batches: Iterable[Array], keep: bool = False) -> Seen:
        """See BackendSession."""
        check_shows_activations(self.name, self.capabilities)
        total = len(batches) if isinstance(batches, Sized) else None
        written = [wire.written(plan) for plan in plans]
        found = self._peer.ask(
            "collect", self.progress, batches, plans=written, total=total, keep=keep
        )
        return {name: tuple(map(Statistics.from_dict, seen)) for name, seen in found.items()}

    def _forward(self, batch: Array) -> Sequence[Array]:
        return wire.load(self._peer.ask("forward", batch=self._peer.save([batch])))

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array]
    ) -> Mapping[str, TensorRange]:
        return self.calibrate(Plan(tuple(sites), ()), batches)

    def _apply(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> None:
        entries = {site.tensor: ranges[site.tensor].to_dict() for site in sites}
        self._peer.ask("apply", plan=wire.written(Plan(tuple(sites), ())), ranges=entries)

    def _compute_in(self, arithmetic: str) -> None:
        self._peer.ask("compute_in", arithmetic=arithmetic)

    def _simulate(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        arrays = self._peer.save([batch, *forced.values()])
        found = self._peer.ask("simulate", arrays=arrays, forced=list(forced))
        values = dict(zip(found["names"], wire.load(found["arrays"]), strict=True))
        computed.update({name: values[name] for name in forced})
        return [values[name] for name in self.model.output_names]

    def close(self) -> None:
        """See BackendSession."""
        self._peer.close()
