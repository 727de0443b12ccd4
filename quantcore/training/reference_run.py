"""A training run in NumPy, in float64: what a backend's steps are held to.

It knows the few operators of a small network, each with its gradient written out; everything that
is particular to quantization it takes from `quantcore.training.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.contracts.training import (
    Extent,
    FrameworkTraining,
    Rates,
    State,
    Target,
    TrainingSpec,
    key,
)
from quantcore.ir.edits import attributes
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore.table.table import TensorRange
from quantcore.training.reference import (
    Adam,
    Values,
    cross_entropy,
    fake_quantize,
    gradients,
    quantized_weight,
)

#: From the gradient by a node's output to those by its inputs, in order.
_Back = Callable[[Values], Sequence[Values]]


class ReferenceRun(FrameworkTraining):
    """See TrainingRun; weights follow their largest magnitude.

    Args:
        model: Of convolutions, additions, products and a few functions of single values.
        sites: What is quantized.
        ranges: Of every site, those of each group made one.
        spec: What is trained.
    """

    def __init__(
        self,
        model: FloatModel,
        sites: Sequence[Site],
        ranges: Mapping[str, TensorRange],
        spec: TrainingSpec,
    ) -> None:
        super().__init__("reference", model, sites, ranges, spec)
        self._values: dict[str, Values] = {
            name: values.astype(np.float64) for name, values in model.initializers.items()
        }
        self._logs = {one: np.zeros(()) for one in self.codings}
        moved = {**{p.name: self._values[p.name] for p in self.parameters}, **self._logs}
        self._adams = {n: Adam(np.zeros_like(v), np.zeros_like(v)) for n, v in moved.items()}

    def _step(
        self, batch: Array, targets: Mapping[str, Target], rates: Rates
    ) -> tuple[Mapping[str, float], Mapping[str, Extent]]:
        forward = _Forward(self, self._values, self._scales())
        forward.run(batch.astype(np.float64))
        losses, upstream = {}, {}
        for name, target in targets.items():
            error = forward.tensors[name] - target.values
            weights = np.broadcast_to(target.weights, error.shape)
            losses[name] = float((weights * error**2).sum())
            upstream[name] = 2 * weights * error
            if target.labels.size:
                loss, slope = cross_entropy(forward.tensors[name], np.float64(target.labels))
                losses[name] += loss
                upstream[name] = upstream[name] + slope
        forward.back(upstream)
        for parameter in self.parameters:
            gradient = forward.gradients.get(parameter.name)
            if gradient is not None:
                value = self._values[parameter.name]
                adam = self._adams[parameter.name]
                self._values[parameter.name] = adam.move(value, gradient, rates.weights)
        if self.spec.activations == "learned":
            for one, log in self._logs.items():
                slope = np.asarray(forward.by_scale[one])
                self._logs[one] = self._adams[one].move(log, slope, rates.scales)
        extents = {
            s.tensor: (
                float(forward.tensors[s.tensor].min()),
                float(forward.tensors[s.tensor].max()),
            )
            for s in self.sites
            if s.role == "activation"
        }
        return losses, extents

    def _weights(self) -> Mapping[str, npt.NDArray[Any]]:
        return self._values

    def _scales(self) -> Mapping[str, float]:
        return {k: c.scale * float(np.exp(self._logs[k])) for k, c in self.codings.items()}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        found: dict[str, npt.NDArray[Any]] = {}
        for name, adam in self._adams.items():
            value = self._logs[name] if name in self._logs else self._values[name]
            parts = {"value": value, "first": adam.first, "second": adam.second}
            found |= {f"{part}/{name}": values.copy() for part, values in parts.items()}
            found[f"steps/{name}"] = np.asarray(adam.steps)
        return found

    def _restore(self, state: State) -> None:
        for name in self._adams:
            value, first, second = (state[f"{p}/{name}"] for p in ("value", "first", "second"))
            (self._logs if name in self._logs else self._values)[name] = value
            self._adams[name] = Adam(first, second, int(state[f"steps/{name}"]))


class _Forward:
    """One pass through the network with quantizers, and back.

    Attributes:
        tensors: Every tensor before it is quantized.
        gradients: Of the loss, by every tensor and constant.
        by_scale: By the logarithm of every scale.
    """

    def __init__(
        self, run: ReferenceRun, constants: Mapping[str, Values], scales: Mapping[str, float]
    ) -> None:
        self._run = run
        self._constants = constants
        self._scales = scales
        self._sites = {site.tensor: site for site in run.sites}
        self._steps: list[tuple[onnx.NodeProto, _Back]] = []
        self.tensors: dict[str, Values] = {}
        self.gradients: dict[str, Values] = {}
        self.by_scale = dict.fromkeys(scales, 0.0)

    def run(self, batch: Values) -> None:
        """Computes every tensor."""
        self.tensors[self._run.model.input_name] = batch
        for node in self._run.model.proto.graph.node:
            made, back = _OPERATORS[node.op_type](
                [self._read(node, name) for name in node.input], attributes(node)
            )
            self.tensors[node.output[0]] = made
            self._steps.append((node, back))

    def back(self, upstream: Mapping[str, Values]) -> None:
        """Computes every gradient."""
        self.gradients = {name: values.copy() for name, values in upstream.items()}
        self._quantized: dict[str, Values] = {}
        for node, back in reversed(self._steps):
            self._settle(node.output[0])
            gradient = self.gradients.get(node.output[0])
            if gradient is None:
                continue
            for name, part in zip(node.input, back(gradient), strict=True):
                site = self._sites.get(name)
                quantized = site is not None and node.name in site.consumers
                weight = name in self._constants
                into = self._quantized if quantized and not weight else self.gradients
                into[name] = into[name] + part if name in into else part
        self._settle(self._run.model.input_name)

    def _settle(self, tensor: str) -> None:
        """Takes what the consumers of a quantized tensor say through its quantizer."""
        upstream = self._quantized.pop(tensor, None)
        if upstream is None:
            return
        one = key(self._sites[tensor])
        coding = self._run.codings[one]
        ends = coding.zero, coding.lowest, coding.highest
        by_x, by_scale = gradients(self.tensors[tensor], self._scales[one], *ends, upstream)
        self.by_scale[one] += by_scale
        before = self.gradients.get(tensor, np.zeros_like(by_x))
        self.gradients[tensor] = before + by_x

    def _read(self, node: onnx.NodeProto, name: str) -> Values:
        """An input of a node, quantized where it is."""
        site = self._sites.get(name)
        if name in self._constants:
            value = self._constants[name]
            if site is None:
                return value
            return quantized_weight(value, site.axis, site.policy.code.highest(symmetric=True))
        value = self.tensors[name]
        if site is None or node.name not in site.consumers:
            return value
        coding = self._run.codings[key(site)]
        ends = coding.zero, coding.lowest, coding.highest
        return fake_quantize(value, self._scales[key(site)], *ends)


def _conv(inputs: Sequence[Values], given: Mapping[str, Any]) -> tuple[Values, _Back]:
    x, weight = inputs[:2]
    (top, left, bottom, right), (down, across) = given["pads"], given["strides"]
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    tall, wide = weight.shape[2:]
    height = (padded.shape[2] - tall) // down + 1
    width = (padded.shape[3] - wide) // across + 1
    found = np.zeros((len(x), len(weight), height, width))

    def window(values: Values, i: int, j: int) -> Values:
        rows = values[:, :, i : i + down * height : down]
        return rows[..., j : j + across * width : across]

    for i, j in np.ndindex(tall, wide):
        found += np.einsum("bchw,oc->bohw", window(padded, i, j), weight[:, :, i, j])
    if len(inputs) > 2:
        found += inputs[2].reshape(1, -1, 1, 1)

    def back(upstream: Values) -> list[Values]:
        by_x, by_weight = np.zeros_like(padded), np.zeros_like(weight)
        for i, j in np.ndindex(tall, wide):
            seen = window(padded, i, j)
            by_weight[:, :, i, j] = np.einsum("bohw,bchw->oc", upstream, seen)
            part = np.einsum("bohw,oc->bchw", upstream, weight[:, :, i, j])
            target = window(by_x, i, j)
            target += part
        inner = by_x[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return [inner, by_weight, upstream.sum((0, 2, 3))][: len(inputs)]

    return found, back


def _leaky(inputs: Sequence[Values], given: Mapping[str, Any]) -> tuple[Values, _Back]:
    slope = np.where(inputs[0] > 0, 1.0, given.get("alpha", 0.01))
    return inputs[0] * slope, lambda upstream: [upstream * slope]


def _sigmoid(inputs: Sequence[Values], given: Mapping[str, Any]) -> tuple[Values, _Back]:
    found = 1 / (1 + np.exp(-inputs[0]))
    return found, lambda upstream: [upstream * found * (1 - found)]


def _mul(inputs: Sequence[Values], given: Mapping[str, Any]) -> tuple[Values, _Back]:
    a, b = inputs
    return a * b, lambda upstream: [upstream * b, upstream * a]


def _add(inputs: Sequence[Values], given: Mapping[str, Any]) -> tuple[Values, _Back]:
    return inputs[0] + inputs[1], lambda upstream: [upstream, upstream]


_OPERATORS: dict[str, Callable[[Sequence[Values], Mapping[str, Any]], tuple[Values, _Back]]] = {
    "Conv": _conv,
    "LeakyRelu": _leaky,
    "Sigmoid": _sigmoid,
    "Mul": _mul,
    "Add": _add,
}
