"""Factors by channel in a float graph: convolutions read x / s and have s in their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from quantcore.ir.edits import Names, add_constant, attributes, copied, drop_unread, set_nodes
from quantcore.ir.model import FloatModel
from quantcore.rewrites.channels import Channels

Factors = npt.NDArray[np.float64]

#: Functions of single values with f(x / s) = f(x) / s for any s > 0; PRelu has a constant slope.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu"})


@dataclass(frozen=True)
class Scaled:
    """A graph whose convolutions read scaled tensors.

    Attributes:
        proto: The graph; its heads, and the names of its layers, are as before.
        multiplied: Tensors of the float graph that a Mul node scales.
        folded: Tensors that are scaled by the weights of the convolution that makes them.
    """

    proto: onnx.ModelProto
    multiplied: tuple[str, ...]
    folded: tuple[str, ...]


def scale(model: FloatModel, factors: Mapping[str, Factors]) -> Scaled:
    """The graph with each channel of a convolution's input divided by its factor.

    The scaled twin of a tensor is made once, for all convolutions; everything else reads the tensor
    as it was. A twin costs a Mul, unless the tensor comes out of a convolution, through ReLUs at
    most, and nothing reads it any more: then the factors go into that convolution.

    Args:
        model: The float model.
        factors: For each of `Channels.sources` a positive factor for each of its channels.
    """
    return _Rewriting(model, factors).result()


class _Rewriting:
    """Twins are made first; then what nothing reads any more goes."""

    def __init__(self, model: FloatModel, factors: Mapping[str, Factors]) -> None:
        self._model = model
        self._channels = Channels(model)
        self._proto = copied(model.proto)
        self._factors = {model.input_name: np.ones(3), **factors}
        self._twins: dict[str, str] = {}  # names, by tensor
        self._copies: dict[str, onnx.NodeProto] = {}  # what makes twins of joined, pooled ... ones
        self._muls: dict[str, onnx.NodeProto] = {}  # what makes twins of sources
        nodes = model.proto.graph.node
        self._nodes = Names(node.name for node in nodes)
        self._tensors = Names(name for node in nodes for name in (*node.input, *node.output))

    def result(self) -> Scaled:
        """See `scale`."""
        layers = self._channels.layers.values()
        read = {x.name: self._twin(x.inputs[0], self._channels.rank(x)) for x in layers}
        nodes = self._ordered(read)
        readers = Counter(self._model.output_names)
        readers.update(name for node in nodes for name in node.input)
        nodes, renamed = self._without_originals(nodes, readers)
        makers = {t: self._convolution_before(t, readers) for t in self._muls}
        folded = {tensor: layer for tensor, layer in makers.items() if layer}
        gone = {self._muls[tensor].name for tensor in folded}
        renamed |= {self._twins[tensor]: tensor for tensor in folded}
        nodes = [node for node in nodes if node.name not in gone]
        made = {layer: 1 / self._factors[tensor] for tensor, layer in folded.items()}
        self._rescale(nodes, made)
        for node in nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        self._finish(nodes)
        return Scaled(self._proto, tuple(t for t in makers if t not in folded), tuple(folded))

    def _factor(self, tensor: str, rank: int) -> Factors:
        """Of each channel of a tensor that leads to a convolution."""
        if tensor not in self._factors:
            parts = self._channels.parts(tensor, rank)
            self._factors[tensor] = np.concatenate([self._factor(p, rank) for p in parts])
        return self._factors[tensor]

    def _twin(self, tensor: str, rank: int) -> str:
        """Name of the scaled tensor, which is the tensor itself where all factors are 1."""
        if tensor in self._twins:
            return self._twins[tensor]
        factor = self._factor(tensor, rank)
        if np.all(factor == 1):
            return tensor
        name = self._twins[tensor] = self._tensors.fresh(f"{tensor}.equalized")
        producer = self._channels.topology.producers[tensor]
        parts = self._channels.parts(tensor, rank)
        if not parts:
            constant = self._tensors.fresh(f"{tensor}.equalized.factors")
            values = (1 / factor).reshape(1, -1, *[1] * (rank - 2)).astype(np.float32)
            add_constant(self._proto.graph, constant, values)
            label = self._nodes.fresh(f"{producer.name}.equalize")
            self._muls[tensor] = helper.make_node("Mul", [tensor, constant], [name], label)
            return name
        copy = self._copies[tensor] = copied(producer)
        copy.name = self._nodes.fresh(f"{producer.name}.equalized")
        copy.input[: len(parts)] = [self._twin(part, rank) for part in parts]
        copy.output[:] = [name]
        return name

    def _ordered(self, read: Mapping[str, str]) -> list[onnx.NodeProto]:
        """All nodes, each twin behind its original; convolutions read what they are told to."""
        nodes = []
        for original in self._model.proto.graph.node:
            node = copied(original)
            if node.name in read:
                node.input[0] = read[node.name]
            nodes.append(node)
            for twins in (self._copies, self._muls):
                nodes += [twins[name] for name in node.output if name in twins]
        return nodes

    def _without_originals(
        self, nodes: list[onnx.NodeProto], readers: Counter[str]
    ) -> tuple[list[onnx.NodeProto], dict[str, str]]:
        """Leaves out nodes with a twin that nothing reads; the twin takes over their names.

        Args:
            nodes: In order.
            readers: How often each tensor is read, by nodes or as a head; brought up to date.

        Returns:
            The other nodes, and the twins' tensors with their new names.
        """
        kept: list[onnx.NodeProto] = []
        renamed: dict[str, str] = {}
        for node in reversed(nodes):
            twin = next((self._copies[t] for t in node.output if t in self._copies), None)
            if twin is None or any(readers[name] for name in node.output):
                kept.append(node)
                continue
            readers.subtract(node.input)
            renamed.update(zip(twin.output, filter(None, node.output), strict=True))
            twin.name = node.name
        return kept[::-1], renamed

    def _convolution_before(self, tensor: str, readers: Mapping[str, int]) -> str | None:
        """The convolution whose output only becomes this tensor, which only its Mul reads."""
        constants = self._channels.topology.constants
        while readers[tensor] == 1:
            node = self._channels.topology.producers.get(tensor)
            if node is None or not constants.issuperset(node.input[2:]):
                return None
            if node.name in self._channels.layers:
                return node.name
            if node.op_type not in _HOMOGENEOUS or not constants.issuperset(node.input[1:]):
                return None
            tensor = node.input[0]
        return None

    def _rescale(self, nodes: list[onnx.NodeProto], made: Mapping[str, Factors]) -> None:
        """Writes the factors into weights and biases; constants that others read too are copied.

        Args:
            nodes: All of them.
            made: Factors on the output channels, by layer.
        """
        initializers = {i.name: i for i in self._proto.graph.initializer}
        readers = Counter(name for node in nodes for name in node.input)

        def put(node: onnx.NodeProto, position: int, values: npt.NDArray[np.generic]) -> None:
            name = node.input[position]
            if readers[name] > 1:
                readers[name] -= 1
                name = node.input[position] = self._tensors.fresh(f"{name}.equalized")
                initializers[name] = self._proto.graph.initializer.add()
            initializers[name].CopyFrom(numpy_helper.from_array(values, name))

        for node in nodes:
            if node.name not in self._channels.layers:
                continue
            into = self._factors[self._channels.layers[node.name].inputs[0]]
            out = made.get(node.name)
            if out is None and np.all(into == 1):
                continue
            weight = self._model.initializers[node.input[1]]
            put(node, 1, _rescaled(node, weight, into, out))
            if out is not None and len(node.input) > 2 and node.input[2]:
                bias = self._model.initializers[node.input[2]]
                put(node, 2, (bias.astype(np.float64) * out).astype(bias.dtype))

    def _finish(self, nodes: list[onnx.NodeProto]) -> None:
        """Puts the nodes into the graph, with the constants and shapes that belong to them."""
        graph = self._proto.graph
        set_nodes(graph, nodes)
        drop_unread(graph)
        made = {name for node in nodes for name in node.output}
        infos = {info.name: info for info in graph.value_info if info.name in made}
        known = {info.name: info for info in (*graph.value_info, *graph.output)}
        for tensor, twin in self._twins.items():
            if twin in made and tensor in known:
                infos[twin] = copied(known[tensor])
                infos[twin].name = twin
        kept = list(infos.values())
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _rescaled(
    node: onnx.NodeProto, weight: npt.NDArray[np.generic], into: Factors, out: Factors | None
) -> npt.NDArray[np.generic]:
    """A weight times factors of its input channels, and of its output channels.

    With g groups Conv stores O x I/g x ..., ConvTranspose I x O/g x ..., the first axis by group.
    """
    groups = int(attributes(node).get("group", 1))
    rest = weight.shape[2:]
    blocks = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    first, second = (out, into) if node.op_type == "Conv" else (into, out)
    ones = (1,) * len(rest)
    if first is not None:
        blocks = blocks * first.reshape(groups, -1, 1, *ones)
    if second is not None:
        blocks = blocks * second.reshape(groups, 1, -1, *ones)
    return blocks.reshape(weight.shape).astype(weight.dtype)
