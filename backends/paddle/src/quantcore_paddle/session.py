"""A float model opened in Paddle, observed and simulated by Paddle's own quantizers."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle.base import core

from quantcore.contracts.backend import (
    BackendSession,
    Capabilities,
    SessionOptions,
    Show,
    Simulation,
)
from quantcore.contracts.capabilities import check_device
from quantcore.contracts.observing import looks, swaps, symmetric_range
from quantcore.contracts.training import TrainingRun, TrainingSpec
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore.qdq.scales import symmetric_scale
from quantcore.runtime.progress import Progress
from quantcore.table.table import TensorRange
from quantcore_paddle.containment import keep_memory_steady, quiet, return_memory
from quantcore_paddle.network import Network, Quantizers
from quantcore_paddle.observers import Observer, check_parameters, observer_of
from quantcore_paddle.quanted import QuanterDequanter64, quanter_dequanter, weight_axis
from quantcore_paddle.training import PaddleTraining

Tensor = Any


class PaddleSession(BackendSession):
    """See BackendSession.

    Attributes:
        network: The materialised network; reachable so that it can be trained with its
            quantizers in place.
        device: Where it computes, as Paddle calls it.
    """

    def __init__(
        self,
        name: str,
        model: FloatModel,
        capabilities: Capabilities,
        options: SessionOptions,
    ) -> None:
        super().__init__(name, model, capabilities, options)
        self.device = _device(name, options.device)
        with self._working():
            self.network = Network(model, options.arithmetic)
        keep_memory_steady(True)

    def close(self) -> None:
        """See BackendSession."""
        keep_memory_steady(False)

    def run(
        self,
        batch: Array,
        replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        quantizers: Quantizers = (),
    ) -> list[Array]:
        """The heads for a batch, with quantizers in place as long as it takes.

        Args:
            batch: B x 3 x H x W.
            replace: See `Network.forward`.
            quantizers: See `Network.quantized`.
        """
        with self._working(), self.network.quantized(quantizers):
            heads = [head.numpy() for head in self.network(self.network.tensor(batch), replace)]
        return_memory()
        return heads

    def _forward(self, batch: Array) -> Sequence[Array]:
        return self.run(batch)

    def _watch(self, batch: Array, show: Mapping[str, Show]) -> None:
        self.run(batch, looks(show, lambda x: x.numpy()))

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        for site in sites:
            check_parameters(self.name, site)
        with self._working():
            observers = {site.tensor: self._observer(site) for site in sites}
        taps = [(site, observers[site.tensor]) for site in sites if site.role == "activation"]
        for batch in batches:
            self.run(batch, quantizers=taps)
        search = progress.track(sites, f"{self.name}: searching thresholds")
        return {
            site.tensor: symmetric_range(site, observers[site.tensor].amax()) for site in search
        }

    def _observer(self, site: Site) -> Observer:
        """An observer for an activation; a weight, which never changes, it has seen already."""
        observer = observer_of(site)
        if site.role == "weight":
            layer = self.network.layers[site.consumers[0]]
            observer(layer.weight, layer)
        return observer

    def _simulation(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> Simulation:
        with self._working():
            quantizers = [(site, self._quantizer(site, ranges[site.tensor])) for site in sites]
        return PaddleSimulation(self, quantizers)

    def _training(
        self, sites: Sequence[Site], ranges: Mapping[str, TensorRange], spec: TrainingSpec
    ) -> TrainingRun:
        return PaddleTraining(self, sites, ranges, spec)

    def _quantizer(self, site: Site, found: TensorRange) -> paddle.nn.Layer:
        """A Q/DQ pair with a loaded range."""
        if site.role == "activation":
            return self._pair(site, found, None)
        axis = None if site.axis is None else weight_axis(self.network.layers[site.consumers[0]])
        return self._pair(site, found, axis)

    def _pair(self, site: Site, found: TensorRange, axis: int | None) -> paddle.nn.Layer:
        code = site.policy.code
        if self.network.arithmetic == "float64":
            return QuanterDequanter64(symmetric_scale(found, code), axis, code.bits)
        return quanter_dequanter(found.amax_array, axis, code.bits)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Without gradients; otherwise as `training_mode`."""
        with self.training_mode(), paddle.no_grad():
            yield

    @contextlib.contextmanager
    def training_mode(self) -> Iterator[None]:
        """With gradients, on the session's device, and back to the process's own after."""
        before = paddle.device.get_device()
        with quiet(), _whole_float32(), _threads(self.options.threads):
            paddle.device.set_device(self.device)
            try:
                yield
            finally:
                paddle.device.set_device(before)


class PaddleSimulation(Simulation):
    """See Simulation.

    Attributes:
        quantizers: What is put in the session's network for each call.
    """

    def __init__(self, session: PaddleSession, quantizers: Quantizers) -> None:
        super().__init__(session)
        self.quantizers = quantizers
        self._session = session

    def _infer(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        swapped = swaps(forced, computed, lambda x: x.numpy(), self._session.network.tensor)
        return self._session.run(batch, swapped, self.quantizers)


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many CPU threads for a while; None leaves them as they are: one, unless told otherwise."""
    if count is None:
        yield
        return
    before = (
        _openmp_threads()
        or paddle.get_flags("FLAGS_paddle_num_threads")["FLAGS_paddle_num_threads"]
    )
    core.set_num_threads(count)
    try:
        yield
    finally:
        core.set_num_threads(before)


def _openmp_threads() -> int:
    """What Paddle's OpenMP library says, as Paddle sets the number but cannot tell it."""
    for library in Path(str(paddle.__file__)).parent.glob("libs/libiomp5.*"):
        return int(ctypes.CDLL(str(library)).omp_get_max_threads())
    flag = "FLAGS_paddle_num_threads"  # what it starts with
    return int(paddle.get_flags(flag)[flag])


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
    there = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    has = ("cpu", "cuda") if there else ("cpu",)
    chosen = has[-1] if wanted == "auto" else wanted
    check_device(backend, chosen, has)
    return "gpu:0" if chosen == "cuda" else "cpu"
