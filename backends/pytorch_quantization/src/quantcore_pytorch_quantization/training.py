"""Training in torch with quantizers in place: one step, and what is kept between two."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

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
from quantcore_pytorch_quantization.fake_quantize import ActivationQuantizer, WeightQuantizer

if TYPE_CHECKING:
    from quantcore_pytorch_quantization.session import TorchSession


class TorchTraining(FrameworkTraining):
    """See TrainingRun; parameters stand in the session's network for the time of a step."""

    def __init__(
        self,
        session: TorchSession,
        sites: Sequence[Site],
        ranges: Mapping[str, TensorRange],
        spec: TrainingSpec,
    ) -> None:
        super().__init__(session.name, session.model, sites, ranges, spec)
        self._session = session
        self._network = session.network
        self._tensors = {p.name: self._tensor(p) for p in self.parameters}
        self._logs: dict[str, Tensor] = {}
        if spec.activations == "learned":
            for one in self.codings:
                zero = torch.zeros(1, dtype=self._network.dtype, device=self._network.device)
                self._logs[one] = zero.requires_grad_()
        named = {**self._tensors, **{f"scale/{k}": v for k, v in self._logs.items()}}
        self._moved = dict(named)
        self._adam = torch.optim.Adam(
            [{"params": list(self._tensors.values())}, {"params": list(self._logs.values())}]
            if self._logs
            else [{"params": list(self._tensors.values())}],
            betas=(0.9, 0.999),
            eps=1e-8,
            fused=True,
        )
        self._weight_quantizers = [
            (s, self._weight_quantizer(s, ranges[s.tensor])) for s in sites if s.role == "weight"
        ]

    def _tensor(self, parameter: Parameter) -> Tensor:
        module = self._network.layers[parameter.layers[0]]
        values: Tensor = getattr(module, parameter.part).detach().clone()
        return values.to(self._network.device, self._network.dtype).requires_grad_()

    def _weight_quantizer(self, site: Site, found: TensorRange) -> WeightQuantizer:
        layer = self._network.layers[site.consumers[0]]
        axis = None if site.axis is None else (1 if getattr(layer, "transposed", False) else 0)
        scale = None
        if self.spec.weights == "frozen":
            shape = [1] * layer.weight.dim()
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
        with self._session.training_mode(), self._parameters():
            with self._network.quantized([*quantizers, *self._weight_quantizers]):
                self._network(self._network.tensor(batch), taps)
            if losses:
                self._adam.zero_grad(set_to_none=True)
                torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
                for group, rate in zip(
                    self._adam.param_groups, (rates.weights, rates.scales), strict=False
                ):
                    group["lr"] = rate
                self._adam.step()
        return {name: loss.item() for name, loss in losses.items()}, extents

    def _activation(self, site: Site, extents: dict[str, Extent]) -> Callable[[Tensor], Tensor]:
        quantizer = ActivationQuantizer(self.codings[key(site)], self._logs.get(key(site)))
        if self.spec.activations != "ema":
            return quantizer

        def watched(x: Tensor) -> Tensor:
            low, high = torch.aminmax(x.detach())
            extents[site.tensor] = low.item(), high.item()
            found: Tensor = quantizer(x)
            return found

        return watched

    def _compare(
        self, name: str, target: Target, losses: dict[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        def compare(x: Tensor) -> Tensor:
            values = self._network.shared(target.values)
            if x.shape != values.shape:
                raise BackendError(
                    f"tensor {name!r} has the shape {tuple(x.shape)} in training, "
                    f"{tuple(values.shape)} at the teacher"
                )
            if target.weights.size == 1:  # one pass over the values each way
                squares = mse_loss(x, values, reduction="sum")
                losses[name] = squares * float(target.weights.item())
            else:
                weights = self._network.shared(target.weights)
                losses[name] = ((x - values).square() * weights).sum()
            if target.labels.size:
                labels = self._network.tensor(target.labels)
                losses[name] = losses[name] - (labels * torch.log_softmax(x, 1)).sum()
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
            values = self._tensors[parameter.name].detach().cpu().numpy()
            # QuantLinear holds outputs x inputs.
            turned = parameter.linear and not parameter.transposed
            found[parameter.name] = values.T if turned else values
        return found

    def _scales(self) -> Mapping[str, float]:
        return {
            one: self.codings[one].scale * float(torch.exp(log.detach().double()))
            for one, log in self._logs.items()
        }

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        found = {f"value/{n}": t.detach().cpu().numpy().copy() for n, t in self._moved.items()}
        for name, tensor in self._moved.items():
            for part, values in self._adam.state[tensor].items():
                found[f"{part}/{name}"] = torch.as_tensor(values).cpu().numpy().copy()
        return found

    def _restore(self, state: State) -> None:
        parts = ("step", "exp_avg", "exp_avg_sq")
        with torch.no_grad():
            for name, tensor in self._moved.items():
                tensor.copy_(torch.from_numpy(np.array(state[f"value/{name}"])))
                kept = {p: state[f"{p}/{name}"] for p in parts if f"{p}/{name}" in state}
                self._adam.state[tensor] = {
                    p: torch.from_numpy(np.array(v)).to(tensor.device) for p, v in kept.items()
                }
