"""What a backend declares that it can do, and the refusals where a policy asks for more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from quantcore.errors import CapabilityError
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Plan, Site

Observers = Mapping[str, frozenset[str]]


class Support(Enum):
    """How far a framework runs, or trains, a quantized network."""

    #: Not at all.
    NONE = "none"
    #: Symmetric codes, zero point 0.
    SYMMETRIC = "symmetric"
    #: Affine codes as well.
    FULL = "full"


@dataclass(frozen=True)
class Capabilities:
    """What a backend can honour of a policy; asking for more is refused before any image is read.

    Attributes:
        activation_observers: Native observer -> the parameters of it that are honoured.
        weight_observers: Likewise for weights.
        bits: Code widths that ranges are found for. The range of weights by `max` is the same for
            every width, so it is never refused for its bits.
        affine: Whether asymmetric ranges can be asked for.
        activation_granularities: Of `per_tensor`, `per_channel`.
        weight_granularities: Likewise.
        implementations: Of `native`, `portable`.
        simulate: Which codes the framework has a fake-quant forward for.
        train: Which codes the framework trains a network with in place.
        arithmetics: Of `float32`, `float64`: what sessions can compute in.
        devices: Of `cpu`, `cuda`.
        operators: The ONNX operators that it materialises; None for all that ONNX Runtime runs.
            What a model has behind its last observed tensor may begin with another one.
    """

    activation_observers: Observers
    weight_observers: Observers
    bits: frozenset[int] = frozenset({8})
    affine: bool = False
    activation_granularities: frozenset[str] = frozenset({"per_tensor"})
    weight_granularities: frozenset[str] = frozenset({"per_tensor", "per_channel"})
    implementations: frozenset[str] = frozenset({"native"})
    simulate: Support = Support.NONE
    train: Support = Support.NONE
    arithmetics: frozenset[str] = frozenset({"float32"})
    devices: tuple[str, ...] = ("cpu",)
    operators: frozenset[str] | None = None

    def missing(self, site: Site) -> str | None:
        """What the site asks for and the backend has not, in words; None where all is there."""
        policy: TensorPolicy = site.policy
        weight = site.role == "weight"
        observers = self.weight_observers if weight else self.activation_observers
        granularities = self.weight_granularities if weight else self.activation_granularities
        if policy.observer not in observers:
            return f"observer {policy.observer!r}; it has {_listing(observers)}"
        for name, _ in policy.parameters:
            if name not in observers[policy.observer]:
                takes = _listing(observers[policy.observer])
                return f"parameter {name!r} of observer {policy.observer!r}; it takes {takes}"
        if policy.bits not in self.bits and not (weight and policy.observer == "max"):
            return f"{policy.bits} bits; it has {_listing(map(str, sorted(self.bits)))}"
        if not policy.symmetric and not self.affine:
            return "affine ranges; it has symmetric ones"
        if policy.granularity not in granularities:
            return f"granularity {policy.granularity!r}; it has {_listing(granularities)}"
        return None


def check_capabilities(backend: str, capabilities: Capabilities, plan: Plan) -> None:
    """Refuses a plan that asks for what a backend has not.

    Raises:
        CapabilityError: Naming the backend, the layer, and what it has instead.
    """
    _check_implementation(backend, capabilities, plan.implementation)
    check_arithmetic(backend, capabilities, plan.arithmetic)
    if plan.implementation == "native":  # others are quantcore's own, the same for every backend
        check_observers(backend, capabilities, plan.sites)


def check_observers(backend: str, capabilities: Capabilities, sites: Iterable[Site]) -> None:
    """Refuses sites that ask for what a framework's own calibrators have not.

    Raises:
        CapabilityError: As `check_capabilities`.
    """
    _check_implementation(backend, capabilities, "native")
    portable = "portable" in capabilities.implementations
    way_out = "; `implementation: portable` takes quantcore's own observers" if portable else ""
    for site in sites:
        missing = capabilities.missing(site)
        if missing:
            raise CapabilityError(
                f"backend {backend!r} has no {missing} "
                f"({site.role} {site.tensor!r} of layer {site.consumers[0]!r}){way_out}"
            )


def check_arithmetic(backend: str, capabilities: Capabilities, arithmetic: str) -> None:
    """Raises CapabilityError where a backend cannot compute in float32 or float64."""
    if arithmetic not in capabilities.arithmetics:
        has = _listing(capabilities.arithmetics)
        raise CapabilityError(
            f"backend {backend!r} cannot compute in {arithmetic}; it has {has} (`arithmetic:`)"
        )


def check_device(backend: str, wanted: str, has: Iterable[str]) -> None:
    """Refuses a device that a backend has not.

    Args:
        backend: Its name.
        wanted: The device.
        has: What it declares, or what of that is there on this machine.

    Raises:
        CapabilityError: It is not among them.
    """
    if wanted not in has:
        raise CapabilityError(
            f"backend {backend!r} has no device {wanted!r} here; it has: {_listing(has)}"
        )


def simulates(capabilities: Capabilities, plan: Plan) -> bool:
    """Whether a backend has a fake-quant forward for the plan's codes."""
    if capabilities.simulate is Support.SYMMETRIC:
        return all(site.policy.symmetric for site in plan.sites)
    return capabilities.simulate is Support.FULL


def check_simulates(backend: str, capabilities: Capabilities, plan: Plan) -> None:
    """Refuses to simulate what a framework cannot; raises CapabilityError."""
    if capabilities.simulate is Support.NONE:
        raise CapabilityError(f"backend {backend!r} has no fake-quant forward to simulate")
    if not simulates(capabilities, plan):
        raise CapabilityError(f"backend {backend!r} simulates symmetric codes only")


def check_trains(backend: str, capabilities: Capabilities, plan: Plan) -> None:
    """Refuses to train what a framework cannot; raises CapabilityError."""
    if capabilities.train is Support.NONE:
        raise CapabilityError(
            f"backend {backend!r} does not train; `quantcore list` shows which backends do"
        )
    affine = any(not site.policy.symmetric for site in plan.sites)
    if affine and capabilities.train is Support.SYMMETRIC:
        raise CapabilityError(f"backend {backend!r} trains with symmetric codes only")


def check_shows_activations(backend: str, capabilities: Capabilities) -> None:
    """Refuses to watch activations where a backend cannot show them; raises CapabilityError."""
    if "portable" not in capabilities.implementations:
        raise CapabilityError(
            f"backend {backend!r} does not show its activations to quantcore: it can keep no "
            "histograms, nor serve several observers in one pass; leave out --keep-histograms and "
            "`observers:`, or use a backend that has portable observers"
        )


def _check_implementation(backend: str, capabilities: Capabilities, wanted: str) -> None:
    if wanted not in capabilities.implementations:
        raise CapabilityError(
            f"backend {backend!r} has no {wanted} observers; it has "
            f"{_listing(capabilities.implementations)} ones (`implementation:`)"
        )


def _listing(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
