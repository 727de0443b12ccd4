"""The plugin and the session that stand for those of another environment."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from quantcore.contracts.backend import BackendPlugin, FrameworkLayer
from quantcore.contracts.capabilities import Capabilities
from quantcore.contracts.remote import wire
from quantcore.contracts.remote.peer import Feed, Peer, Shown
from quantcore.contracts.remote.training import RemoteTraining
from quantcore.contracts.session import BackendSession, SessionOptions, Show, Simulation
from quantcore.contracts.training import TrainingRun, TrainingSpec
from quantcore.errors import BackendError
from quantcore.ir.description import describe
from quantcore.ir.model import Array, FloatModel, LayerInfo
from quantcore.ir.values import mapping, text, whole
from quantcore.qdq.placement import Site
from quantcore.runtime.progress import Progress
from quantcore.showing import one_line, shown
from quantcore.table.table import TensorRange


def listed(name: str, python: Path) -> dict[str, str]:
    """`distribution` and `version` of a plugin in another environment; it is not imported.

    Raises:
        BackendUnavailable: The Python cannot be run, or has no quantcore or framework.
        PluginError: It has another quantcore, or no such plugin.
    """
    peer = Peer(name, python)
    try:
        told = peer.ask("listed")
        with peer.sense():
            return {key: one_line(text(told[key]), 100) for key in ("distribution", "version")}
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
        known, self._versions = _describe(name, python)
        self.capabilities = known  # type: ignore[misc] # for each instance, as its plugin tells
        self._peer: Peer | None = None

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return dict(self._versions)

    def framework_layer(self, layer: LayerInfo) -> FrameworkLayer | None:
        """See BackendPlugin."""
        if self._peer is None:  # kept: a table of layers asks hundreds of times
            self._peer = Peer(self.name, self._python)
            weakref.finalize(self, self._peer.close)
        found = self._peer.ask("framework_layer", layer=asdict(layer))
        with self._peer.sense():
            return wire.tupled(FrameworkLayer, mapping(found)) if found else None

    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        return RemoteSession(self.name, self._python, model, self.capabilities, options)


@functools.lru_cache
def _describe(name: str, python: Path) -> tuple[Capabilities, Mapping[str, str]]:
    peer = Peer(name, python)
    try:
        told = peer.ask("describe")
        with peer.sense():
            versions = {one_line(key, 100): text(v) for key, v in mapping(told["versions"]).items()}
            return wire.capabilities(mapping(told["capabilities"])), versions
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
        options: SessionOptions,
    ) -> None:
        super().__init__(name, model, capabilities, options)
        self._peer = Peer(name, python)
        try:
            # A described file says all there is about a model, whatever a model consists of.
            path = self._peer.folder / "float.onnx"
            path.write_bytes(describe(model).SerializeToString())
            found = self._peer.ask("open", path=str(path), options=asdict(options))
            if found != model.fingerprint:
                raise BackendError(
                    f"backend {shown(name)} in {python}: it read another float model"
                )
        except BaseException:
            self._peer.close()
            raise

    def peak_rss_mb(self) -> float:
        """Peak resident memory of the other process when it last answered."""
        return self._peer.peak

    def _forward(self, batch: Array) -> Sequence[Array]:
        return self._peer.load(self._peer.ask("forward", batch=self._peer.save([batch])))

    def _watch(self, batch: Array, show: Mapping[str, Show]) -> None:
        self._peer.ask(
            "watch",
            answers=Shown(show, self._peer),
            batch=self._peer.save([batch]),
            tensors=list(show),
        )

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        feed = Feed(batches, self._peer)
        found = self._peer.ask("observe", progress, feed, sites=wire.written(sites))
        with self._peer.sense():
            return wire.ranges(mapping(found))

    def _simulation(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> Simulation:
        entries = {site.tensor: ranges[site.tensor].to_dict() for site in sites}
        number = self._peer.ask("simulation", sites=wire.written(sites), ranges=entries)
        with self._peer.sense():
            return _RemoteSimulation(self, self._peer, whole(number))

    def _training(
        self, sites: Sequence[Site], ranges: Mapping[str, TensorRange], spec: TrainingSpec
    ) -> TrainingRun:
        return RemoteTraining(self, self._peer, sites, ranges, spec)

    def close(self) -> None:
        """See BackendSession."""
        self._peer.close()


class _RemoteSimulation(Simulation):
    """A simulation of the session over there, by its number."""

    def __init__(self, session: RemoteSession, peer: Peer, number: int) -> None:
        super().__init__(session)
        self._peer = peer
        self._number: int | None = number

    def _infer(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        if self._number is None:
            raise BackendError(f"backend {shown(self.name)}: the simulation is closed")
        given = self._peer.save([batch, *forced.values()])
        found = self._peer.ask("infer", number=self._number, arrays=given, forced=list(forced))
        with self._peer.sense():
            arrays = self._peer.load(found["arrays"])
            values: dict[str, Array] = dict(zip(found["names"], arrays, strict=True))
            computed.update({name: values[name] for name in forced})
            return [values[name] for name in self.model.output_names]

    def close(self) -> None:
        """See Simulation."""
        if self._number is not None and self._peer.is_open:
            self._peer.ask("end_simulation", number=self._number)
        self._number = None
