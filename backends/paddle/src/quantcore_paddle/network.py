"""The float graph as a paddle.nn.Layer, with places for Paddle's quantizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import paddle

from quantcore.contracts.nodes import GraphRunner, Node, Tap
from quantcore.errors import BackendError
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore_paddle.observers import first_line
from quantcore_paddle.operators import FUNCTIONS, Call, builder_of
from quantcore_paddle.quanted import quanted

Tensor = Any
#: What stands at each site; a weight's is a paddle.nn.Layer.
Quantizers = Sequence[tuple[Site, Any]]


class Network(paddle.nn.Layer):  # type: ignore[misc]
    """Layers that Paddle's PTQ knows are Paddle's own, under the layers' own names.

    Activation quantizers stand at the tensor rather than in each consumer, so that a tensor that
    several layers read is observed and quantized once. A layer is looked up where it stands each
    time it runs, so that Paddle's own tools, which put wrappers in its place, work as well.

    Attributes:
        layers: The float layer of each node that is one, by layer name.
        weight_quantizers: By layer name.
        activation_quantizers: By tensor name.
        arithmetic: `float32` or `float64`.
    """

    def __init__(self, model: FloatModel, arithmetic: str = "float32") -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self.layers: dict[str, paddle.nn.Layer] = {}
        self.weight_quantizers: dict[str, Any] = {}
        self.activation_quantizers: dict[str, Any] = {}
        self._homes: dict[str, tuple[paddle.nn.Layer, str]] = {}
        self._taps: dict[str, Tap[Tensor]] = {}
        # Layers take their full names from a counter of the process; it stays as it is.
        with paddle.utils.unique_name.guard():
            self._runner: GraphRunner[Tensor] = GraphRunner(model, self._build, arithmetic)
        self.eval()

    def _build(self, node: Node) -> Call:
        builder = builder_of(node)
        if builder is None and node.op not in FUNCTIONS:
            raise node.refused(f"the paddle backend knows no {node.op}")
        try:
            if builder is None:
                return _named(node, FUNCTIONS[node.op](node))
            layer = builder(node)
        except BackendError:
            raise
        except Exception as error:
            raise node.refused(first_line(error)) from None
        self.layers[node.name] = layer
        home, leaf = self._homes[node.name] = _place(self, node.name, layer)
        return _named(node, lambda *inputs: home._sub_layers[leaf](*inputs))

    def tensor(self, values: Array) -> Tensor:
        """Images or activations as the network takes them."""
        return paddle.to_tensor(values, dtype=self.arithmetic)

    def tap(self, site: Site, quantizer: Callable[[Tensor], Tensor]) -> None:
        """Puts a quantizer at an activation, for the site's consumers."""
        self.activation_quantizers[site.tensor] = quantizer
        if isinstance(quantizer, paddle.nn.Layer):
            _rename(quantizer, f"{site.tensor}.activation_quantizer")
            if "activation_quantizers" not in self._sub_layers:
                _place(self, "activation_quantizers", paddle.nn.Layer())
            self._sub_layers["activation_quantizers"]._sub_layers[site.tensor] = quantizer
        self._taps[site.tensor] = Tap(quantizer, frozenset(site.consumers))

    def quantize_weight(self, site: Site, quantizer: paddle.nn.Layer) -> None:
        """Puts Paddle's quantized layer, with a weight quantizer, in the place of the float one."""
        _rename(quantizer, f"{site.tensor}.weight_quantizer")
        for name in site.consumers:
            self.weight_quantizers[name] = quantizer
            home, leaf = self._homes[name]
            home._sub_layers[leaf] = quanted(self.layers[name], quantizer)

    def clear(self) -> None:
        """Takes all quantizers out: the network is the float one again."""
        self._taps = {}
        self.activation_quantizers.clear()
        self.weight_quantizers.clear()
        self._sub_layers.pop("activation_quantizers", None)
        for name, layer in self.layers.items():
            home, leaf = self._homes[name]
            home._sub_layers[leaf] = layer

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


def _named(node: Node, call: Call) -> Call:
    """The call, with an error that names the layer."""

    def run(*inputs: Tensor) -> Any:
        try:
            return call(*inputs)
        except Exception as error:
            raise BackendError(
                f"layer {node.name!r} ({node.op}): Paddle failed: {first_line(error)}"
            ) from None

    return run


def _place(root: paddle.nn.Layer, path: str, layer: paddle.nn.Layer) -> tuple[paddle.nn.Layer, str]:
    """Registers a layer under a dotted path, making the containers in between.

    Returns:
        The container and the name in it.
    """
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._sub_layers:
            # Straight into the dictionary: a part of the path may be called like a method.
            root._sub_layers[name] = paddle.nn.Layer()
        root = root._sub_layers[name]
    root._sub_layers[leaf] = layer
    return root, leaf


def _rename(layer: paddle.nn.Layer, name: str) -> None:
    """Gives the parameters of a quantizer names of their own, not of a process-wide counter."""
    for leaf, parameter in layer.named_parameters():
        parameter.name = f"{name}.{leaf}"
