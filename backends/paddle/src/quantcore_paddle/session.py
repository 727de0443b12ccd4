"""A float model opened in Paddle, observed and simulated by Paddle's own quantizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import paddle
from paddle.base import core

from quantcore.contracts.backend import BackendSession, Capabilities, symmetric_range
from quantcore.errors import CapabilityError
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore.qdq.scales import symmetric_scale
from quantcore.table.table import TensorRange
from quantcore_paddle.containment import keep_memory_steady, quiet, return_memory
from quantcore_paddle.network import Network
from quantcore_paddle.observers import Observer, check_parameters, observer_of
from quantcore_paddle.quanted import QuanterDequanter64, quanter_dequanter, weight_axis

Tensor = Any


class Session(BackendSession):
    """See BackendSession.

    Attributes:
        network: The materialised network; reachable so that it can be trained with its
            quantizers in place.
        device: Where it computes, as Paddle calls it.
    """

    def __init__(
        self, name: str, model: FloatModel, capabilities: Capabilities, device: str
    ) -> None:
        super().__init__(name, model, capabilities)
        self.device = _device(name, device)
        with self._working():
            self.network = Network(model)
        keep_memory_steady(True)

    def close(self) -> None:
        """See BackendSession."""
        keep_memory_steady(False)

    def _compute_in(self, arithmetic: str) -> None:
        with self._working():
            self.network = Network(self.model, arithmetic)

    def _forward(self, batch: Array) -> Sequence[Array]:
        with self.network.unquantized():
            return self._run(batch)

    def _simulate(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        def swap(name: str, values: Array) -> Callable[[Tensor], Tensor]:
            def replace(x: Tensor) -> Tensor:
                computed[name] = x.numpy()
                return self.network.tensor(values)

            return replace

        return self._run(batch, {name: swap(name, values) for name, values in forced.items()})

    def _watch(self, batch: Array, see: Mapping[str, Callable[[Array], None]]) -> None:
        def shown(show: Callable[[Array], None]) -> Callable[[Tensor], Tensor]:
            def watch(x: Tensor) -> Tensor:
                show(x.numpy())
                return x

            return watch

        with self.network.unquantized():
            self._run(batch, {name: shown(show) for name, show in see.items()})

    def _run(
        self, batch: Array, replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None
    ) -> list[Array]:
        with self._working():
            heads = [head.numpy() for head in self.network(self.network.tensor(batch), replace)]
        return_memory()
        return heads

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array]
    ) -> Mapping[str, TensorRange]:
        for site in sites:
            check_parameters(self.name, site)
        self._applied = False  # the quantizers that were in place make way
        self.network.clear()
        try:
            with self._working():
                observers = {site.tensor: self._observer(site) for site in sites}
            for batch in batches:
                self._run(batch)
        finally:
            self.network.clear()
        search = self.progress.track(sites, f"{self.name}: searching thresholds")
        return {
            site.tensor: symmetric_range(site, observers[site.tensor].amax()) for site in search
        }

    def _observer(self, site: Site) -> Observer:
        """An observer at its activation; a weight, which never changes, it sees at once."""
        observer = observer_of(site)
        if site.role == "activation":
            self.network.tap(site, observer)
        else:
            layer = self.network.layers[site.consumers[0]]
            observer(layer.weight, layer)
        return observer

    def _apply(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> None:
        self.network.clear()
        with self._working():
            for site in sites:
                if site.role == "activation":
                    self.network.tap(site, self._pair(site, ranges[site.tensor], None))
                    continue
                layer = self.network.layers[site.consumers[0]]
                axis = None if site.axis is None else weight_axis(layer)
                pair = self._pair(site, ranges[site.tensor], axis)
                self.network.quantize_weight(site, pair)
            self.network.eval()

    def _pair(self, site: Site, found: TensorRange, axis: int | None) -> paddle.nn.Layer:
        code = site.policy.code
        if self.network.arithmetic == "float64":
            return QuanterDequanter64(symmetric_scale(found, code), axis, code.bits)
        return quanter_dequanter(found.amax_array, axis, code.bits)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Without gradients, on the session's device, and back to the process's own after."""
        before = paddle.device.get_device()
        with quiet(), _whole_float32(), paddle.no_grad():
            paddle.device.set_device(self.device)
            try:
                yield
            finally:
                paddle.device.set_device(before)


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Convolutions and products that keep all 24 bits of float32 on a GPU.

    cuDNN may round their operands to the 11 bits of TF32, which Paddle allows unless it is told not
    to: the network would not be the float graph any more.
    """
    before = core.get_cudnn_switch(), core.get_cublas_switch()
    core.set_cudnn_switch(False)
    core.set_cublas_switch(False)
    try:
        yield
    finally:
        core.set_cudnn_switch(before[0])
        core.set_cublas_switch(before[1])


def _device(backend: str, wanted: str) -> str:
    available = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if wanted == "auto":
        return "gpu:0" if available else "cpu"
    if wanted not in ("cpu", "cuda") or (wanted == "cuda" and not available):
        has = "cpu, cuda" if available else "cpu"
        raise CapabilityError(f"backend {backend!r} has no device {wanted!r} here; it has: {has}")
    return "gpu:0" if wanted == "cuda" else "cpu"
