"""The float graph as a torch module, with places for the toolkit's quantizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_quantization.nn import TensorQuantizer
from pytorch_quantization.nn.modules import _utils
from torch import Tensor

from quantcore.contracts.nodes import GraphRunner, Node, Tap
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore_pytorch_quantization.imports import know_the_caller_quickly
from quantcore_pytorch_quantization.operators import FUNCTIONS, WEIGHTED, Call

know_the_caller_quickly(_utils)

#: What stands at each site; a weight's is a TensorQuantizer.
Quantizers = Sequence[tuple[Site, Any]]


class Network(torch.nn.Module):
    """Layers with weights are the toolkit's quantized modules, under the layers' own names.

    Activation quantizers stand at the tensor rather than in each consumer, so that a tensor that
    several layers read is observed and quantized once.

    Attributes:
        layers: The module of each layer with weights, by layer name.
        device: Where the network computes.
        dtype: In what.
    """

    def __init__(
        self, model: FloatModel, device: torch.device, arithmetic: str = "float32"
    ) -> None:
        super().__init__()
        self.layers: dict[str, Any] = {}
        self.device = device
        self.dtype: torch.dtype = getattr(torch, arithmetic)
        self._taps: dict[str, Tap[Tensor]] = {}
        # One for all layers: to make one takes a tenth of a millisecond.
        self._off = TensorQuantizer(disabled=True)
        self._runner: GraphRunner[Tensor] = GraphRunner(model, self._build, arithmetic)

    def _build(self, node: Node) -> Call:
        if node.op in WEIGHTED and 1 in node.constants and 0 not in node.constants:
            module, call = WEIGHTED[node.op](node)
            self.layers[node.name] = module.to(self.device).eval()
            _place(self, node.name, module)
            return call
        if node.op not in FUNCTIONS:
            raise node.refused(f"the torch backend knows no {node.op}")
        return FUNCTIONS[node.op](node, self.device)

    def tensor(self, values: Array) -> Tensor:
        """Images or activations as the network takes them."""
        return torch.tensor(values, device=self.device, dtype=self.dtype)

    def shared(self, values: Array) -> Tensor:
        """As `tensor`, in the array's own memory where that is possible; for what is only read."""
        writable = np.require(values, requirements="W")  # torch warns of others
        return torch.as_tensor(writable, device=self.device, dtype=self.dtype)

    def tap(self, site: Site, function: Callable[[Tensor], Tensor]) -> None:
        """Puts a quantizer at an activation, for the site's consumers."""
        if isinstance(function, torch.nn.Module):
            _place(self, f"activation_quantizers.{site.tensor}", function)
        self._taps[site.tensor] = Tap(function, frozenset(site.consumers))

    def quantize_weight(self, site: Site, quantizer: TensorQuantizer) -> None:
        """Puts a quantizer at the weight of the site's layers."""
        for name in site.consumers:
            self.layers[name]._weight_quantizer = quantizer

    def clear(self) -> None:
        """Takes all quantizers out: the network is the float one again."""
        self._taps.clear()
        for layer in self.layers.values():
            layer._weight_quantizer = self._off
        if hasattr(self, "activation_quantizers"):
            del self.activation_quantizers

    @contextlib.contextmanager
    def quantized(self, quantizers: Quantizers) -> Iterator[None]:
        """The network with quantizers in place for a while, and then the float one again."""
        try:
            for site, quantizer in quantizers:
                if site.role == "activation":
                    self.tap(site, quantizer)
                else:
                    self.quantize_weight(site, quantizer)
            yield
        finally:
            self.clear()

    def forward(
        self, images: Tensor, replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None
    ) -> list[Tensor]:
        """Heads for a batch, B x 3 x H x W, through the quantizers in place.

        Args:
            images: The network input.
            replace: Functions that exchange activations, by tensor name, before any quantizer.
        """
        return self._runner.run(images, self._taps, replace)


def _place(root: torch.nn.Module, path: str, module: torch.nn.Module) -> None:
    """Registers a module under a dotted path, making the containers in between."""
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, torch.nn.Module())
        root = root._modules[name]  # type: ignore[assignment]
    root.add_module(leaf, module)
