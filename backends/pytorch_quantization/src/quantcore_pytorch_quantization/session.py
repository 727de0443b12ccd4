"""A float model opened in torch, observed and simulated by the toolkit's TensorQuantizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from absl import logging as absl_logging
from pytorch_quantization import calib
from pytorch_quantization.nn import TensorQuantizer
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor

from quantcore.contracts.backend import (
    BackendSession,
    Capabilities,
    SessionOptions,
    Show,
    Simulation,
)
from quantcore.contracts.capabilities import check_device
from quantcore.contracts.observing import looks, place, swaps, symmetric_range
from quantcore.contracts.training import TrainingRun, TrainingSpec
from quantcore.errors import BackendError, RangeError
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore.qdq.scales import exact_amax
from quantcore.runtime.progress import Progress
from quantcore.table.table import TensorRange
from quantcore_pytorch_quantization.network import Network, Quantizers
from quantcore_pytorch_quantization.training import TorchTraining


class TorchSession(BackendSession):
    """See BackendSession.

    Attributes:
        network: The materialised network; reachable so that it can be trained with its
            quantizers in place.
    """

    def __init__(
        self,
        name: str,
        model: FloatModel,
        capabilities: Capabilities,
        options: SessionOptions,
    ) -> None:
        super().__init__(name, model, capabilities, options)
        with _quiet():  # gradients stay possible, for whoever trains it
            self.network = Network(model, _device(name, options.device), options.arithmetic)

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
        with self._working(), _whole_float32(), self.network.quantized(quantizers):
            heads = self.network(self.network.tensor(batch), replace)
            return [head.cpu().numpy() for head in heads]

    def _forward(self, batch: Array) -> Sequence[Array]:
        return self.run(batch)

    def _watch(self, batch: Array, show: Mapping[str, Show]) -> None:
        # In float32, which is what is shown, whatever is computed in: half of it to copy.
        self.run(batch, looks(show, lambda x: x.float().cpu().numpy()))

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        with self._working():
            quantizers = {site.tensor: self._observer(site) for site in sites}
        taps = [(s, _named(s, quantizers[s.tensor])) for s in sites if s.role == "activation"]
        for batch in batches:
            self.run(batch, quantizers=taps)
        search = progress.track(sites, f"{self.name}: searching thresholds")
        with self._working():
            return {site.tensor: _range_of(site, quantizers[site.tensor]) for site in search}

    def _observer(self, site: Site) -> TensorQuantizer:
        """A quantizer that calibrates and passes its tensor on unchanged."""
        method = "max" if site.policy.observer == "max" else "histogram"
        described = self._descriptor(site, method)
        quantizer = TensorQuantizer(described, if_quant=False, if_calib=True)
        bins = int(site.policy.parameter("bins", 0))
        if bins:
            quantizer._calibrator = calib.HistogramCalibrator(8, None, False, num_bins=bins)
        if site.role == "weight":
            # Weights do not change from batch to batch; left in the network, the quantizer would
            # observe them again with each.
            quantizer(self.network.layers[site.consumers[0]].weight)
        return quantizer

    def _descriptor(self, site: Site, method: str) -> QuantDescriptor:
        """The toolkit's descriptor for a site, with the channel axis of the torch module."""
        axis = None
        if site.axis is not None:
            # Not the site's axis: a Gemm's weight may lie the other way round in the graph.
            axis = (_weight_axis(self.network.layers[site.consumers[0]]),)
        return QuantDescriptor(num_bits=site.policy.bits, axis=axis, calib_method=method)

    def _amax(self, site: Site, found: TensorRange) -> Array | npt.NDArray[np.float64]:
        if self.network.dtype == torch.float64:
            return exact_amax(found, site.policy.code)
        return found.amax_array.astype(np.float32)

    def _simulation(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> Simulation:
        with _quiet():
            return TorchSimulation(self, [(s, self._quantizer(s, ranges[s.tensor])) for s in sites])

    def _training(
        self, sites: Sequence[Site], ranges: Mapping[str, TensorRange], spec: TrainingSpec
    ) -> TrainingRun:
        return TorchTraining(self, sites, ranges, spec)

    @contextlib.contextmanager
    def training_mode(self) -> Iterator[None]:
        """With gradients; otherwise as any other work."""
        with torch.enable_grad(), _quiet(), _threads(self.options.threads), _whole_float32():
            yield

    def _quantizer(self, site: Site, found: TensorRange) -> TensorQuantizer:
        """A quantizer with a loaded range."""
        # It calibrates no more: the toolkit has no histogram for each channel.
        quantizer = TensorQuantizer(self._descriptor(site, "max"))
        amax = self._amax(site, found)
        if site.role == "weight" and site.axis is not None:
            layer = self.network.layers[site.consumers[0]]
            shape = [1] * layer.weight.dim()
            shape[_weight_axis(layer)] = -1
            amax = amax.reshape(shape)
        quantizer.amax = amax
        return quantizer.to(self.network.device, self.network.dtype)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        """Without gradients and without log lines, on as many threads as it may have."""
        with torch.inference_mode(), _quiet(), _threads(self.options.threads):
            yield


class TorchSimulation(Simulation):
    """See Simulation.

    Attributes:
        quantizers: What is put in the session's network for each call.
    """

    def __init__(self, session: TorchSession, quantizers: Quantizers) -> None:
        super().__init__(session)
        self.quantizers = quantizers
        self._session = session

    def _infer(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        network = self._session.network
        swapped = swaps(forced, computed, lambda x: x.cpu().numpy(), network.tensor)
        return self._session.run(batch, swapped, self.quantizers)


def _weight_axis(layer: Any) -> int:
    """Axis of the output channels in the torch module's weight."""
    return 1 if getattr(layer, "transposed", False) else 0


def _named(site: Site, quantizer: TensorQuantizer) -> Callable[[Tensor], Tensor]:
    """The quantizer, with an error that names what it was watching."""

    def watch(x: Tensor) -> Tensor:
        where = place(site)
        # The toolkit's histogram drops NaN once it has bins, and would calibrate on the rest.
        if not torch.isfinite(x.max()):
            raise RangeError(f"{where}: NaN or infinite; check the weights and the images")
        try:
            watched: Tensor = quantizer(x)
            return watched
        except Exception as error:  # whatever the toolkit raises on data it cannot bin
            if not torch.isfinite(x.min()):
                raise RangeError(f"{where}: infinite; check the weights and the images") from None
            raise BackendError(
                f"{where}: the toolkit cannot observe it with {site.policy.observer!r}: {error}; "
                "give the layer observer max"
            ) from None

    return watch


def _range_of(site: Site, quantizer: TensorQuantizer) -> TensorRange:
    """What the toolkit's calibrator makes of what it saw."""
    observer = site.policy.observer
    try:
        if observer == "max":
            amax = quantizer._calibrator.compute_amax()
        elif observer == "percentile":
            percentile = site.policy.parameter("percentile", 99.99)
            amax = quantizer._calibrator.compute_amax("percentile", percentile=percentile)
        else:
            with _cuda_optional():
                amax = quantizer._calibrator.compute_amax(
                    observer,
                    stride=int(site.policy.parameter("stride", 1)),
                    start_bin=int(site.policy.parameter("start_bin", 128)),
                )
    except Exception as error:
        raise BackendError(
            f"{place(site)}: the toolkit finds no {observer!r} threshold: {error}; "
            "give the layer observer max"
        ) from None
    if amax is None:
        raise BackendError(f"{site.role} {site.tensor!r}: the toolkit saw no data")
    return symmetric_range(site, amax.detach().cpu().numpy())


@contextlib.contextmanager
def _cuda_optional() -> Iterator[None]:
    """Lets the toolkit's mse search run without a GPU.

    calib/histogram.py:265-266 of 2.1.3 calls `.cuda()` on its counts whether there is a device or
    not; without one, the method is the identity while the search runs.
    """
    if torch.cuda.is_available():
        yield
        return
    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = original  # type: ignore[method-assign]


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Convolutions that keep all 24 bits of float32 on a GPU, and add up alike each time.

    cuDNN may round their operands to the 11 bits of TF32, which torch allows unless it is told not
    to (torch.backends.cudnn.allow_tf32): the network would not be the float graph any more.
    """
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False):
        yield


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many CPU threads for a while; None leaves them as they are."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the toolkit's log lines (one for every quantizer) from the user's terminal."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.FATAL)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def _device(backend: str, wanted: str) -> torch.device:
    has = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if wanted == "auto":
        return torch.device(has[-1])
    check_device(backend, wanted, has)
    return torch.device(wanted)
