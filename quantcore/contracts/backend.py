"""The backend contract: a plugin opens a float model in its framework and calibrates it.

A backend never places a Q/DQ node. It is given the sites to observe, computed by the core before
any image is read, and hands back a range for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import ClassVar

import numpy as np

from quantcore.calibration.portable import See, Seen, observe, watch
from quantcore.contracts.capabilities import (
    Capabilities,
    check_arithmetic,
    check_capabilities,
    check_shows_activations,
    simulates,
)
from quantcore.errors import BackendError, CapabilityError, RangeError
from quantcore.ir.model import Array, FloatModel, LayerInfo
from quantcore.qdq.groups import merged
from quantcore.qdq.placement import Plan, Site
from quantcore.qdq.ranges import check_range
from quantcore.runtime.progress import Progress, Silent
from quantcore.table.table import TensorRange

__all__ = [
    "API_VERSION",
    "BackendPlugin",
    "BackendSession",
    "Capabilities",
    "FrameworkLayer",
    "symmetric_range",
]

API_VERSION = 1


@dataclass(frozen=True)
class FrameworkLayer:
    """A layer as a framework calls it, argument names in the order of LayerInfo's tensors.

    Attributes:
        cls: The framework's class.
        inputs: Its names of the inputs.
        weights: Its names of the weights.
        outputs: Its names of the outputs.
    """

    cls: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


class BackendSession(ABC):
    """One float model, materialised in one framework; a context manager.

    The public methods check the contract around the author's underscored ones.

    Attributes:
        model: The float model.
        progress: Where long work reports.
        arithmetic: What it computes in, `float32` until `compute_in`.
    """

    def __init__(self, name: str, model: FloatModel, capabilities: Capabilities) -> None:
        self.name = name
        self.model = model
        self.capabilities = capabilities
        self.progress: Progress = Silent()
        self.arithmetic = "float32"
        self._applied = False

    def compute_in(self, arithmetic: str) -> None:
        """Computes in float64 from here on, or in float32 again; a table that was applied is gone.

        It is for `forward` and `simulate`; a calibration goes by its plan, whatever was set here.
        Weights and images stay the float32 numbers that they are. Two frameworks add the products
        of a convolution in different orders: in float32 the sums differ in their last bits, a
        rounding flips here and there, and quantized networks part (ADR 1). In float64 the sums
        agree to about 1e-14, so that nothing is left between two frameworks but what they mean
        (ADR 7).

        Args:
            arithmetic: `float32` or `float64`.

        Raises:
            CapabilityError: The backend cannot.
        """
        check_arithmetic(self.name, self.capabilities, arithmetic)
        if arithmetic != self.arithmetic:
            self._compute_in(arithmetic)
            self.arithmetic, self._applied = arithmetic, False

    def forward(self, batch: Array) -> dict[str, Array]:
        """The materialised float network on one batch (B x 3 x H x W): heads by tensor name."""
        return self._named(self._forward(batch), batch)

    def calibrate(self, plan: Plan, batches: Iterable[Array]) -> dict[str, TensorRange]:
        """Watches the images and returns a range for every site of the plan.

        Args:
            plan: What to observe; from `quantcore.qdq.placement.plan`.
            batches: Network inputs, B x 3 x H x W; read once, in order.

        Raises:
            CapabilityError: The plan asks for what the backend has not; no image was read.
            RangeError: A range is NaN, infinite or not positive; names tensor and layers.
            BackendError: The framework failed.
        """
        check_capabilities(self.name, self.capabilities, plan)
        self._applied = False  # a calibration takes quantizers out that a table put in
        shown = self.progress.track(batches, f"{self.name}: calibrating")
        with self._computing_in(plan.arithmetic), closing(shown) as watched:
            if plan.implementation == "portable":
                ranges = observe(plan, self.model, partial(self._feed, plan.sites, watched))
            else:
                ranges = dict(self._observe(plan.sites, watched))
        wanted = {site.tensor for site in plan.sites}
        if wanted != ranges.keys():
            missing = ", ".join(sorted(wanted - ranges.keys())) or "none"
            extra = ", ".join(sorted(ranges.keys() - wanted)) or "none"
            raise BackendError(
                f"backend {self.name!r} broke its contract: sites without a range: {missing}; "
                f"ranges without a site: {extra}"
            )
        for site in plan.sites:
            check_range(site, ranges[site.tensor], self.model, plan.implementation)
        return {site.tensor: ranges[site.tensor] for site in plan.sites}

    def collect(self, plans: Sequence[Plan], batches: Iterable[Array], keep: bool = False) -> Seen:
        """Watches the float network once for the portable observers of several plans.

        Args:
            plans: Of one model, with the same activations and arithmetic; their implementation does
                not matter.
            batches: As in `calibrate`.
            keep: Keeps what any observer needs, not only those of the plans.

        Returns:
            Statistics of every activation, for `quantcore.calibration.portable.activation_ranges`.

        Raises:
            CapabilityError: The backend cannot show its activations; no image was read.
            PolicyError: A policy that the portable observers cannot follow; no image was read.
            RangeError: NaN or infinite; names tensor, layers and image.
        """
        check_shows_activations(self.name, self.capabilities)
        check_arithmetic(self.name, self.capabilities, plans[0].arithmetic)
        self._applied = False
        extra = [s.policy for p in plans[1:] for s in p.sites if s.role == "activation"]
        shown = self.progress.track(batches, f"{self.name}: collecting")
        with self._computing_in(plans[0].arithmetic), closing(shown) as watched:
            feed = partial(self._feed, plans[0].sites, watched)
            return watch(plans[0], feed, dict.fromkeys(extra), keep).seen

    @contextmanager
    def _computing_in(self, arithmetic: str) -> Iterator[None]:
        before = self.arithmetic
        self.compute_in(arithmetic)
        try:
            yield
        finally:
            self.compute_in(before)

    def _feed(self, sites: Sequence[Site], batches: Iterable[Array], see: See) -> None:
        """Shows the float network's activations to the portable observers, batch by batch."""
        tensors = [site.tensor for site in sites if site.role == "activation"]
        seen = 0
        for batch in batches:
            self._watch(batch, {name: partial(see, name, image=seen) for name in tensors})
            seen += len(batch)

    def apply(self, plan: Plan, ranges: Mapping[str, TensorRange]) -> None:
        """Loads ranges, from this framework or another, for `simulate`.

        Raises:
            CapabilityError: The framework has no fake-quant forward.
            RangeError: A site has no range.
        """
        if not self.capabilities.simulate:
            raise CapabilityError(f"backend {self.name!r} has no fake-quant forward to simulate")
        if not simulates(self.capabilities, plan):
            raise CapabilityError(f"backend {self.name!r} simulates symmetric codes only")
        for site in plan.sites:
            if site.tensor not in ranges:
                raise RangeError(f"tensor {site.tensor!r} of layer {site.consumers[0]!r}: no range")
        self._apply(plan.sites, merged(plan, ranges))
        self._applied = True

    def simulate(self, batch: Array, forced: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The framework's own fake-quant forward, with the ranges last applied.

        Args:
            batch: B x 3 x H x W.
            forced: Values that replace activations of the plan as they appear, before they are
                quantized. Later layers then start from the same numbers as another
                implementation's, so that each layer can be compared by itself.

        Returns:
            The heads by name and, beside them, what the framework had computed for each forced
            tensor before it was replaced.
        """
        if not self._applied:
            raise BackendError(f"backend {self.name!r}: apply a table before simulating")
        computed: dict[str, Array] = {}
        heads = self._simulate(batch, forced or {}, computed)
        return {**computed, **self._named(heads, batch)}

    def _named(self, heads: Sequence[Array], batch: Array) -> dict[str, Array]:
        names = self.model.output_names
        if len(heads) != len(names) or any(len(h) != len(batch) for h in heads):
            raise BackendError(
                f"backend {self.name!r} broke its contract: {len(heads)} heads for outputs "
                f"{', '.join(names)}"
            )
        return {n: np.asarray(h, dtype=np.float32) for n, h in zip(names, heads, strict=True)}

    @abstractmethod
    def _forward(self, batch: Array) -> Sequence[Array]:
        """The float network; heads in the graph's order."""

    @abstractmethod
    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array]
    ) -> Mapping[str, TensorRange]:
        """A range for every site, after one pass over the batches with the float network."""

    def _watch(self, batch: Array, see: Mapping[str, Callable[[Array], None]]) -> None:
        """Runs the float network and shows activations; needed with implementation `portable`.

        Args:
            batch: B x 3 x H x W.
            see: By tensor name; called once with the tensor's values, which it does not keep.
        """
        raise BackendError(f"backend {self.name!r} declares portable without a _watch")

    def _apply(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> None:
        """Loads the ranges into the framework's quantizers; needed with capability `simulate`."""
        raise BackendError(f"backend {self.name!r} declares simulate without an _apply")

    def _compute_in(self, arithmetic: str) -> None:
        """Materialises the model anew; needed with `arithmetics` other than float32.

        Batches, ranges and forced values are given in float32 all the same; what is shown or
        returned may be either.
        """
        raise BackendError(f"backend {self.name!r} declares {arithmetic} without a _compute_in")

    def _simulate(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        """The framework's fake-quant forward; needed with capability `simulate`.

        Fills `computed` with the framework's own values of the forced tensors.
        """
        raise BackendError(f"backend {self.name!r} declares simulate without a _simulate")

    def close(self) -> None:  # noqa: B027 - nothing to free is a sound default
        """Frees the materialised network; safe to call twice."""

    def __enter__(self) -> BackendSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BackendPlugin(ABC):
    """One entry point of group `quantcore.backends`; made with the entry point's name."""

    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capabilities]

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Version of the framework, by distribution name."""

    def framework_layer(self, layer: LayerInfo) -> FrameworkLayer | None:
        """What the layer becomes in the framework; None where it is a plain function call."""
        return None

    @abstractmethod
    def open(self, model: FloatModel, device: str = "auto") -> BackendSession:
        """Materialises the model in the framework, with its float weights.

        Args:
            model: The float model; left untouched.
            device: `cpu`, `cuda`, or `auto` for the fastest there is.

        Raises:
            BackendError: A node that the backend cannot materialise; names it.
            CapabilityError: The device is not among the backend's, or not there.
        """


def symmetric_range(site: Site, amax: object) -> TensorRange:
    """The range [-amax, amax] of a site, for backends whose framework yields amax.

    Args:
        site: What was observed.
        amax: A number, or any array with one number for each channel of the site's axis.

    Raises:
        RangeError: NaN, infinite or negative; names tensor and layers.
    """
    values = np.asarray(amax, dtype=np.float64).reshape(-1)
    try:
        if site.axis is not None:
            return TensorRange.symmetric(site.role, values, site.axis)
        return TensorRange.symmetric(site.role, values.item())
    except RangeError as error:
        raise RangeError(
            f"{site.role} {site.tensor!r} of layer {', '.join(site.consumers)}: {error}; check the "
            "weights and the images"
        ) from None
