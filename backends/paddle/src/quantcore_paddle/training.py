"""Training in Paddle with quantizers in place: one step, and what is kept between two."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.base.framework import EagerParamBase

from quantcore.contracts.training import (
    Extent,
    FrameworkTraining,
    Parameter,
    Rates,
    State,
    Target,
    TrainingSpec,
    key,
)
from quantcore.errors import BackendError
from quantcore.ir.model import Array
from quantcore.qdq.placement import Site
from quantcore.qdq.scales import symmetric_scale
from quantcore.table.table import TensorRange
from quantcore_paddle.containment import return_memory
from quantcore_paddle.fake_quantize import ActivationQuantizer, WeightQuantizer
from quantcore_paddle.quanted import weight_axis

if TYPE_CHECKING:
    from quantcore_paddle.session import PaddleSession

Tensor = Any

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class PaddleTraining(FrameworkTraining):
    """See TrainingRun; parameters stand in the session's network for the time of a step."""

    def __init__(
        self,
        session: PaddleSession,
        sites: Sequence[Site],
        ranges: Mapping[str, TensorRange],
        spec: TrainingSpec,
    ) -> None:
        super().__init__(session.name, session.model, sites, ranges, spec)
        self._session = session
        self._network = session.network
        with session.training_mode():
            self._tensors = {p.name: self._tensor(p) for p in self.parameters}
            self._logs: dict[str, Tensor] = {}
            if spec.activations == "learned":
                for one in self.codings:
                    zero = paddle.zeros([1], dtype=self._network.arithmetic)
                    zero.stop_gradient = False
                    self._logs[one] = zero
            self._adams = {name: _Adam(tensor) for name, tensor in self._moved().items()}
            self._weight_quantizers = [
                (s, self._weight_quantizer(s, ranges[s.tensor]))
                for s in sites
                if s.role == "weight"
            ]

    def _moved(self) -> dict[str, Tensor]:
        return {**self._tensors, **{f"scale/{k}": v for k, v in self._logs.items()}}

    def _tensor(self, parameter: Parameter) -> Tensor:
        layer = self._network.layers[parameter.layers[0]]
        own = getattr(layer, parameter.part)
        return EagerParamBase.from_tensor(own.detach().clone(), trainable=True)

    def _weight_quantizer(self, site: Site, found: TensorRange) -> WeightQuantizer:
        layer = self._network.layers[site.consumers[0]]
        axis = None if site.axis is None else weight_axis(layer)
        scale = None
        if self.spec.weights == "frozen":
            shape = [1] * layer.weight.ndim
            if axis is not None:
                shape[axis] = -1
            scale = self._network.tensor(symmetric_scale(found, site.policy.code)).reshape(shape)
        return WeightQuantizer(axis, site.policy.code.highest(symmetric=True), scale)

    def _step(
        self, batch: Array, targets: Mapping[str, Target], rates: Rates
    ) -> tuple[Mapping[str, float], Mapping[str, Extent]]:
        losses: dict[str, Tensor] = {}
        extents: dict[str, Extent] = {}
        taps = {name: self._compare(name, target, losses) for name, target in targets.items()}
        quantizers = [
            (s, self._activation(s, extents)) for s in self.sites if s.role == "activation"
        ]
        with self._session.training_mode():
            with (
                self._parameters(),
                self._network.quantized([*quantizers, *self._weight_quantizers]),
            ):
                self._network(self._network.tensor(batch), taps)
            if losses:
                paddle.add_n(list(losses.values())).backward()
                self._move(rates)
            found = {name: loss.item() for name, loss in losses.items()}
        return_memory()
        return found, extents

    def _move(self, rates: Rates) -> None:
        """Every parameter by its gradient."""
        with paddle.no_grad():
            for name, tensor in self._moved().items():
                gradient = tensor.grad
                if gradient is not None:
                    rate = rates.weights if name in self._tensors else rates.scales
                    self._adams[name].move(tensor, gradient, rate)
                tensor.clear_gradient(set_to_zero=False)

    def _activation(self, site: Site, extents: dict[str, Extent]) -> Callable[[Tensor], Tensor]:
        quantizer = ActivationQuantizer(self.codings[key(site)], self._logs.get(key(site)))
        if self.spec.activations != "ema":
            return quantizer

        def watched(x: Tensor) -> Tensor:
            seen = x.detach()
            extents[site.tensor] = seen.min().item(), seen.max().item()
            return quantizer(x)

        return watched

    def _compare(
        self, name: str, target: Target, losses: dict[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        def compare(x: Tensor) -> Tensor:
            values, weights = (
                self._network.tensor(part) for part in (target.values, target.weights)
            )
            if x.shape != values.shape:
                raise BackendError(
                    f"tensor {name!r} has the shape {tuple(x.shape)} in training, "
                    f"{tuple(values.shape)} at the teacher"
                )
            losses[name] = (paddle.square(x - values) * weights).sum()
            if target.labels.size:
                labels = self._network.tensor(target.labels)
                # Not Paddle's log_softmax, which takes nothing to be below the largest by over 64.
                logs = x - paddle.logsumexp(x, axis=1, keepdim=True)
                losses[name] = losses[name] - (labels * logs).sum()
            return x

        return compare

    @contextlib.contextmanager
    def _parameters(self) -> Iterator[None]:
        """The parameters in the network for a while, and then its own again."""
        layers = self._network.layers
        before = []
        try:
            for parameter in self.parameters:
                for name in parameter.layers:
                    held = layers[name]._parameters
                    before.append((held, parameter.part, held[parameter.part]))
                    held[parameter.part] = self._tensors[parameter.name]
            yield
        finally:
            for held, part, own in before:
                held[part] = own

    def _weights(self) -> Mapping[str, npt.NDArray[Any]]:
        found = {}
        for parameter in self.parameters:
            values = self._tensors[parameter.name].numpy()
            # Paddle's Linear holds inputs x outputs.
            found[parameter.name] = values.T if parameter.transposed else values
        return found

    def _scales(self) -> Mapping[str, float]:
        return {k: self.codings[k].scale * math.exp(v.item()) for k, v in self._logs.items()}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        found = {f"value/{name}": tensor.numpy() for name, tensor in self._moved().items()}
        for name, adam in self._adams.items():
            found |= {f"{part}/{name}": values for part, values in adam.state().items()}
        return found

    def _restore(self, state: State) -> None:
        with self._session.training_mode(), paddle.no_grad():
            for name, tensor in self._moved().items():
                paddle.assign(self._network.tensor(state[f"value/{name}"]), output=tensor)
                parts = ("steps", "first", "second")
                kept = {part: state[f"{part}/{name}"] for part in parts}
                self._adams[name].restore(kept, self._network.tensor)


class _Adam:
    """The optimizer's memory of one parameter, as `quantcore.training.reference.Adam` has it.

    Not Paddle's own, which keeps its running means under names that it makes up, so that a state
    could not be put back.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._steps = 0
        self._first = paddle.zeros_like(tensor).detach()
        self._second = paddle.zeros_like(tensor).detach()

    def move(self, tensor: Tensor, gradient: Tensor, rate: float) -> None:
        """Moves a parameter in place."""
        self._steps += 1
        self._first = _BETAS[0] * self._first + (1 - _BETAS[0]) * gradient
        self._second = _BETAS[1] * self._second + (1 - _BETAS[1]) * gradient * gradient
        size = rate / (1 - _BETAS[0] ** self._steps)
        spread = paddle.sqrt(self._second / (1 - _BETAS[1] ** self._steps))
        paddle.assign(tensor - size * self._first / (spread + _EPSILON), output=tensor)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What `restore` takes."""
        means = {"first": self._first.numpy(), "second": self._second.numpy()}
        return {"steps": np.asarray(self._steps), **means}

    def restore(self, state: State, made: Callable[[Any], Tensor]) -> None:
        """Takes over what `state` gave; `made` makes a tensor."""
        self._steps = int(state["steps"])
        self._first, self._second = made(state["first"]), made(state["second"])
