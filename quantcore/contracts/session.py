"""A float model that is open in a framework, and a quantized form of it that the framework runs.

What a framework does stands here: run the network, show its activations, calibrate natively, run
it with quantizers. What quantcore does with that stands in `quantcore.calibration`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantcore.contracts.capabilities import (
    Capabilities,
    check_observers,
    check_shows_activations,
    check_simulates,
    check_trains,
)
from quantcore.contracts.closable import Closable
from quantcore.contracts.front import Front
from quantcore.contracts.training import TrainingRun, TrainingSpec
from quantcore.errors import BackendError, RangeError, UsageError
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.groups import merged
from quantcore.qdq.placement import Plan, Site
from quantcore.qdq.ranges import check_range
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import peak_rss_mb
from quantcore.table.table import TensorRange

__all__ = ["BackendSession", "SessionOptions", "Show", "Simulation"]

#: Takes in the values of an activation; reads them before it returns, and keeps none.
Show = Callable[[npt.NDArray[np.floating]], None]


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a model is opened; fixed for as long as it is open.

    In float32, two frameworks add the products of a convolution in different orders: the sums
    differ in their last bits, a rounding flips here and there, and quantized networks part (ADR 1).
    In float64 the sums agree to about 1e-14, so that nothing is left between two frameworks but
    what they mean (ADR 7). Weights and images stay the float32 numbers that they are.

    Attributes:
        device: `cpu`, `cuda`, or `auto` for the fastest there is.
        arithmetic: What the network computes in, `float32` or `float64`.
        threads: CPU threads; None leaves it to the framework.
    """

    device: str = "auto"
    arithmetic: str = "float32"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a number of threads that is none."""
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be 1 or more, not {self.threads}")


class BackendSession(Closable, ABC):
    """One float model, materialised in one framework; a context manager.

    The public methods check the contract around the author's underscored ones. Between two calls
    the network is the float one: quantizers are in place for the duration of a call.

    Attributes:
        name: The backend's.
        model: The float model.
        capabilities: What the backend declares.
        options: How it was opened.
    """

    def __init__(
        self,
        name: str,
        model: FloatModel,
        capabilities: Capabilities,
        options: SessionOptions,
    ) -> None:
        self.name = name
        self.model = model
        self.capabilities = capabilities
        self.options = options

    def forward(self, batch: Array) -> dict[str, Array]:
        """The materialised float network on one batch (B x 3 x H x W): heads by tensor name."""
        return _named(self.name, self.model, self._forward(batch), batch)

    def watch(self, batch: Array, show: Mapping[str, Show]) -> None:
        """Runs the float network on one batch and shows some of its activations.

        Args:
            batch: B x 3 x H x W.
            show: By tensor name; called once, with the tensor's values in float32.

        Raises:
            CapabilityError: The backend cannot show its activations; nothing was computed.
            BackendError: The framework failed, or kept an activation to itself.
        """
        check_shows_activations(self.name, self.capabilities)
        left = set(show)

        def shown(tensor: str) -> Show:
            def take(values: npt.NDArray[np.floating]) -> None:
                left.discard(tensor)
                show[tensor](np.asarray(values, dtype=np.float32))

            return take

        self._watch(batch, {tensor: shown(tensor) for tensor in show})
        if left:
            names = ", ".join(sorted(left))
            raise BackendError(f"backend {self.name!r} broke its contract: did not show {names}")

    def observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress | None = None
    ) -> dict[str, TensorRange]:
        """The ranges that the framework's own calibrators find.

        Args:
            sites: What to observe; from `quantcore.qdq.placement.plan`.
            batches: Network inputs, B x 3 x H x W; read once, in order.
            progress: Where the framework's long work reports; whoever gives the batches knows how
                many were read.

        Returns:
            A range for every site, in their order.

        Raises:
            CapabilityError: A site asks for what the backend has not; no image was read.
            RangeError: A range is NaN, infinite or not positive; names tensor and layers.
            BackendError: The framework failed.
        """
        check_observers(self.name, self.capabilities, sites)
        found = self._observe(tuple(sites), batches, progress or Silent())
        wanted = {site.tensor for site in sites}
        if wanted != found.keys():
            missing = ", ".join(sorted(wanted - found.keys())) or "none"
            extra = ", ".join(sorted(found.keys() - wanted)) or "none"
            raise BackendError(
                f"backend {self.name!r} broke its contract: sites without a range: {missing}; "
                f"ranges without a site: {extra}"
            )
        for site in sites:
            check_range(site, found[site.tensor], self.model)
        return {site.tensor: found[site.tensor] for site in sites}

    def simulation(self, plan: Plan, ranges: Mapping[str, TensorRange]) -> Simulation:
        """The framework's own fake-quant network, with ranges of this framework or another.

        Several may stand side by side; each is of use until it or the session is closed.

        Args:
            plan: What is quantized.
            ranges: By tensor name.

        Raises:
            CapabilityError: The framework cannot simulate the plan's codes.
            RangeError: A site has no range.
        """
        check_simulates(self.name, self.capabilities, plan)
        _check_ranges(plan, ranges)
        return self._simulation(plan.sites, merged(plan, ranges))

    def training(
        self, plan: Plan, ranges: Mapping[str, TensorRange], spec: TrainingSpec
    ) -> TrainingRun:
        """The network with quantizers in place that can be trained; a context manager.

        The session's own network stays the float one. The run is of use until it or the session is
        closed.

        Args:
            plan: What is quantized.
            ranges: Where the quantizers start, by tensor name.
            spec: What is trained, and how ranges move.

        Raises:
            CapabilityError: The framework does not train, or not with the plan's codes.
            RangeError: A site has no range.
        """
        check_trains(self.name, self.capabilities, plan)
        _check_ranges(plan, ranges)
        return self._training(plan.sites, merged(plan, ranges), spec)

    def peak_rss_mb(self) -> float:
        """Peak resident memory so far, in MB, of the process that it computes in."""
        return peak_rss_mb()

    @abstractmethod
    def _forward(self, batch: Array) -> Sequence[Array]:
        """The float network; heads in the graph's order."""

    @abstractmethod
    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        """A range for every site, after one pass over the batches with the float network."""

    def _watch(self, batch: Array, show: Mapping[str, Show]) -> None:
        """Runs the float network and shows activations; needed with implementation `portable`.

        Args:
            batch: B x 3 x H x W.
            show: By tensor name; to be called once with the tensor's values, as they are computed.
        """
        raise BackendError(f"backend {self.name!r} declares portable without a _watch")

    def _simulation(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> Simulation:
        """Loads ranges into the framework's quantizers; needed with capability `simulate`."""
        raise BackendError(f"backend {self.name!r} declares simulate without a _simulation")

    def _training(
        self, sites: Sequence[Site], ranges: Mapping[str, TensorRange], spec: TrainingSpec
    ) -> TrainingRun:
        """Makes the network trainable; needed with capability `train`."""
        raise BackendError(f"backend {self.name!r} declares train without a _training")


class Simulation(Closable, ABC):
    """The network of a session with quantizers in place; a context manager.

    Args:
        session: Whose network it is.
    """

    def __init__(self, session: BackendSession) -> None:
        self.name = session.name
        self.model = session.model

    def infer(self, batch: Array, forced: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The framework's own fake-quant forward.

        Args:
            batch: B x 3 x H x W.
            forced: Values that replace activations of the plan as they appear, before they are
                quantized. Later layers then start from the same numbers as another
                implementation's, so that each layer can be compared by itself.

        Returns:
            The heads by name and, beside them, what the framework had computed for each forced
            tensor before it was replaced.

        Raises:
            BackendError: The framework failed.
        """
        computed: dict[str, Array] = {}
        forced = forced or {}
        heads = _named(self.name, self.model, self._infer(batch, forced, computed), batch)
        if computed.keys() != forced.keys():
            names = ", ".join(sorted(forced.keys() ^ computed.keys()))
            raise BackendError(
                f"backend {self.name!r} broke its contract: forced other tensors than it was told "
                f"to: {names}"
            )
        return {**computed, **heads}

    @abstractmethod
    def _infer(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        """The fake-quant forward; heads in the graph's order.

        Batches and forced values are float32, whatever the session computes in. Fills `computed`
        with the framework's own values of the forced tensors.
        """


def _check_ranges(plan: Plan, ranges: Mapping[str, TensorRange]) -> None:
    for site in plan.sites:
        if site.tensor not in ranges:
            raise RangeError(f"tensor {site.tensor!r} of layer {site.consumers[0]!r}: no range")


def _named(
    backend: str, model: FloatModel, heads: Sequence[Array], batch: Array
) -> dict[str, Array]:
    names = model.output_names
    # Where a graph is cut, tensors need not have the images along their first axis.
    batched = isinstance(model, Front) or all(len(head) == len(batch) for head in heads)
    if len(heads) != len(names) or not batched:
        raise BackendError(
            f"backend {backend!r} broke its contract: {len(heads)} heads for outputs "
            f"{', '.join(names)}"
        )
    return {n: np.asarray(h, dtype=np.float32) for n, h in zip(names, heads, strict=True)}
