"""A float network that a framework trains with the quantizers in place.

What a step computes is written down in `quantcore.training.reference`; a framework does the
forward, the weighted squares, the backward and the optimizer's step. Where images, teacher values
and weights of the loss come from is no framework's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.contracts.closable import Closable
from quantcore.contracts.observing import largest, symmetric_range
from quantcore.errors import BackendError, UsageError
from quantcore.ir.edits import attributes
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore.qdq.scales import code_of, codes_of
from quantcore.table.table import TensorRange

ACTIVATIONS = ("learned", "frozen", "ema")
WEIGHTS = ("max", "frozen")

#: What is kept of a run between two steps, by name.
State = Mapping[str, npt.NDArray[Any]]
#: Smallest and largest value of a tensor in a batch.
Extent = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """What is trained, and how ranges move.

    Attributes:
        layers: Names of the layers whose weights and biases are trained.
        activations: `learned`: the scales are trained as well; `frozen`: ranges stay; `ema`: they
            follow what batches hold.
        weights: `max`: a weight's range is its largest magnitude at that step; `frozen`: it stays.
    """

    layers: frozenset[str]
    activations: str = "learned"
    weights: str = "max"

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown way."""
        for what, chosen, known in (
            ("activations", self.activations, ACTIVATIONS),
            ("weights", self.weights, WEIGHTS),
        ):
            if chosen not in known:
                raise UsageError(f"{what}: must be one of {', '.join(known)}, not {chosen!r}")


@dataclass(frozen=True)
class Target:
    """What a tensor should hold.

    Its share of the loss is sum(weights * (x - values)**2) - sum(labels * log softmax(x)), the
    softmax over axis 1.

    Attributes:
        values: The teacher's.
        weights: Of the same shape, or one that is spread over it.
        labels: Of the shape of `values`: what the right class weighs, 0 elsewhere; empty where
            labels play no part.
    """

    values: Array
    weights: Array
    labels: Array = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How far one step goes.

    Attributes:
        weights: Learning rate of weights and biases.
        scales: Learning rate of the logarithms of the scales.
        momentum: What a range that follows the batches keeps of itself; None where it stands still.
    """

    weights: float
    scales: float
    momentum: float | None = None


@dataclass(frozen=True)
class Coding:
    """How an activation is coded at some step.

    Attributes:
        scale: Of one code.
        zero: The zero point.
        lowest: Smallest code.
        highest: Largest code.
    """

    scale: float
    zero: int
    lowest: int
    highest: int

    def range(self, scale: float) -> TensorRange:
        """The range of these codes under another scale."""
        if self.zero == 0 and self.lowest < 0:
            return TensorRange.symmetric("activation", scale * self.highest)
        low, high = self.lowest - self.zero, self.highest - self.zero
        return TensorRange("activation", scale * low, scale * high)


@dataclass(frozen=True)
class Parameter:
    """A constant of the graph that is trained.

    Attributes:
        name: Of the initializer.
        layers: Which layers read it.
        part: `weight` or `bias`, as frameworks call it.
        linear: Whether it is the weight of a matrix product.
        transposed: Whether a matrix lies as outputs x inputs.
        shape: In the graph.
    """

    name: str
    layers: tuple[str, ...]
    part: str
    linear: bool
    transposed: bool
    shape: tuple[int, ...]


def parameters(model: FloatModel, layers: frozenset[str]) -> list[Parameter]:
    """The constants that training some layers changes, in graph order, each once.

    Raises:
        BackendError: Two layers read one constant in different layouts.
    """
    found: dict[str, Parameter] = {}
    weighted = {layer.name for layer in model.layers if layer.weights}
    for node in model.proto.graph.node:
        if node.name not in layers or node.name not in weighted:
            continue
        linear = node.op_type in ("Gemm", "MatMul")
        transposed = bool(attributes(node).get("transB", 0))
        for part, name in zip(("weight", "bias"), node.input[1:3], strict=False):
            if name not in model.initializers:
                continue
            matrix, shape = linear and part == "weight", model.initializers[name].shape
            new = Parameter(name, (node.name,), part, matrix, transposed and matrix, shape)
            old = found.get(name, new)
            if replace(old, layers=new.layers) != new:
                raise BackendError(
                    f"constant {name!r} is read by {old.layers[0]!r} and {node.name!r} in "
                    "different layouts; leave one of them out of `layers`"
                )
            layers_of = tuple(dict.fromkeys((*old.layers, node.name)))
            found[name] = replace(old, layers=layers_of)
    return list(found.values())


class TrainingRun(Closable, ABC):
    """The network of a session in training; a context manager.

    Args:
        name: The backend's.
        model: The float model; stays as it is.
    """

    def __init__(self, name: str, model: FloatModel) -> None:
        self.name = name
        self.model = model

    @abstractmethod
    def step(self, batch: Array, targets: Mapping[str, Target], rates: Rates) -> dict[str, float]:
        """One step: forward, loss, backward, and every parameter moved by Adam.

        Args:
            batch: B x 3 x H x W.
            targets: By tensor name: heads, or activations before they are quantized.
            rates: How far it goes.

        Returns:
            Each target's share of the loss, before the step; NaN where the network holds NaN.

        Raises:
            BackendError: The framework failed, or did not compute a target.
        """

    @abstractmethod
    def weights(self) -> dict[str, Array]:
        """The trained constants by name, in the graph's layout."""

    @abstractmethod
    def ranges(self) -> dict[str, TensorRange]:
        """The range of every site as it is now."""

    @abstractmethod
    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that the next steps depend on; `restore` makes them the same to the last bit."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Goes on from what `state` gave, of this run or of an equal one."""


class FrameworkTraining(TrainingRun):
    """What every framework's training shares: codes, ranges, and the contract around a step.

    Args:
        name: The backend's.
        model: The float model; stays as it is.
        sites: What is quantized.
        ranges: Of every site, those of each group made one.
        spec: What is trained, and how ranges move.

    Attributes:
        parameters: What is trained.
        codings: How activations are coded at the start, or now where ranges follow the batches; by
            `key`.
    """

    def __init__(
        self,
        name: str,
        model: FloatModel,
        sites: Sequence[Site],
        ranges: Mapping[str, TensorRange],
        spec: TrainingSpec,
    ) -> None:
        super().__init__(name, model)
        self.sites = tuple(sites)
        self.spec = spec
        self.parameters = parameters(model, spec.layers)
        if not self.parameters:
            raise UsageError("nothing to train: no layer with weights is among `layers`")
        self._start = dict(ranges)
        self._followed = {key(s): ranges[s.tensor] for s in sites if s.role == "activation"}
        self._policies = {key(s): s.policy for s in sites if s.role == "activation"}
        self.codings: dict[str, Coding] = {}
        self._code()

    def step(self, batch: Array, targets: Mapping[str, Target], rates: Rates) -> dict[str, float]:
        """See TrainingRun."""
        losses, extents = self._step(batch, targets, rates)
        if losses.keys() != targets.keys():
            names = ", ".join(sorted(losses.keys() ^ targets.keys()))
            raise BackendError(f"backend {self.name!r} broke its contract: other losses: {names}")
        if self.spec.activations == "ema" and rates.momentum is not None:
            self._follow(extents, rates.momentum)
        return {name: float(losses[name]) for name in targets}

    def weights(self) -> dict[str, Array]:
        """See TrainingRun."""
        found = self._weights()
        return {
            p.name: np.asarray(found[p.name], np.float32).reshape(p.shape) for p in self.parameters
        }

    def ranges(self) -> dict[str, TensorRange]:
        """See TrainingRun."""
        now = {**self.model.initializers, **self.weights()}
        scales = self._scales()
        found: dict[str, TensorRange] = {}
        for site in self.sites:
            if site.role == "activation":
                one = key(site)
                learned = self.spec.activations == "learned"
                coding = self.codings[one]
                found[site.tensor] = (
                    coding.range(float(scales[one])) if learned else self._followed[one]
                )
            elif self.spec.weights == "frozen":
                found[site.tensor] = self._start[site.tensor]
            else:
                found[site.tensor] = symmetric_range(site, largest(now[site.tensor], site.axis))
        return found

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """See TrainingRun."""
        ends = {f"range/{k}": np.array([r.min, r.max]) for k, r in self._followed.items()}
        return {**ends, **self._state()}

    def restore(self, state: State) -> None:
        """See TrainingRun."""
        for one in self._followed:
            low, high = map(float, state[f"range/{one}"])
            self._followed[one] = TensorRange("activation", low, high)
        self._code()
        self._restore(state)

    def _code(self) -> None:
        for one, found in self._followed.items():
            policy = self._policies[one]
            scale, zero = code_of(found, policy)
            self.codings[one] = Coding(float(scale), int(zero), *codes_of(policy))

    def _follow(self, extents: Mapping[str, Extent], momentum: float) -> None:
        """Moves every range towards what the batch held; a group's to the widest of it."""
        seen: dict[str, Extent] = {}
        for site in self.sites:
            if site.role == "activation":
                low, high = extents[site.tensor]
                if self._policies[key(site)].symmetric:
                    high = max(-low, high)
                    low = -high
                old = seen.get(key(site), (low, high))
                seen[key(site)] = min(old[0], low), max(old[1], high)
        for one, (low, high) in seen.items():
            before = self._followed[one]
            assert isinstance(before.min, float)
            assert isinstance(before.max, float)
            ends = zip((before.min, before.max), (low, high), strict=True)
            low, high = (momentum * old + (1 - momentum) * new for old, new in ends)
            self._followed[one] = TensorRange("activation", low, high)
        self._code()

    @abstractmethod
    def _step(
        self, batch: Array, targets: Mapping[str, Target], rates: Rates
    ) -> tuple[Mapping[str, float], Mapping[str, Extent]]:
        """A step with `codings` and its losses; with `ema` also each activation's extent."""

    @abstractmethod
    def _weights(self) -> Mapping[str, npt.NDArray[Any]]:
        """What is trained, by initializer name; matrices as they lie in the graph."""

    @abstractmethod
    def _scales(self) -> Mapping[str, float]:
        """The learned scales by `key`; needed with `learned`."""

    @abstractmethod
    def _state(self) -> dict[str, npt.NDArray[Any]]:
        """What the framework keeps between two steps."""

    @abstractmethod
    def _restore(self, state: State) -> None:
        """Takes over what `_state` gave."""


def key(site: Site) -> str:
    """What a site's scale belongs to: its group, or the tensor alone."""
    return site.tensor if site.group is None else f"group {site.group}"
