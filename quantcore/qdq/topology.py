"""Who writes and who reads a tensor of an ONNX graph, and what that says about fusion."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from quantcore.ir.edits import attributes, consumers, producers
from quantcore.ir.selection import values_of

#: Convolutions and the like: what an element-wise add can be fused behind.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
#: Element-wise functions of one activation, fused with the convolution before them.
ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Softplus"}
    | {"Swish", "Mish", "PRelu", "Gelu"}
)
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
_GATES = frozenset({"Sigmoid", "HardSigmoid"})
#: Nodes that only pick and place values; Resize does where it samples the nearest.
_MOVES = frozenset(
    {"Concat", "MaxPool", "Reshape", "Transpose", "Slice", "Flatten", "Squeeze"}
    | {"Unsqueeze", "Identity", "Split"}
)


class Topology:
    """The edges of a graph.

    Attributes:
        producers: The node that writes a tensor.
        consumers: The nodes that read a tensor, in order.
        constants: Names of the initializers.
        outputs: Names of the graph's outputs.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.producers = producers(graph)
        self.consumers = consumers(graph)
        self.constants = frozenset(i.name for i in graph.initializer)
        self.outputs = frozenset(o.name for o in graph.output)
        self._order = {t: index for index, node in enumerate(graph.node) for t in node.output}

    def fused_branch(self, node: onnx.NodeProto) -> str | None:
        """The input of an add whose convolution the add can be fused behind.

        It comes out of a convolution through activations alone, and nothing else reads it or what
        lies between. Of two such inputs it is the one that is computed last, so that the other is
        there when the fused kernel runs.
        """
        found = [name for name in node.input if self.fused_layer(name) is not None]
        return max(found, key=lambda name: self._order[name], default=None)

    def fused_layer(self, tensor: str) -> onnx.NodeProto | None:
        """The weighted node that alone makes a tensor which is read once, or None."""
        if len(self.consumers.get(tensor, ())) != 1 or tensor in self.outputs:
            return None
        while True:
            producer = self.producers.get(tensor)
            if producer is None:
                return None
            if producer.op_type in WEIGHTED:
                return producer if self.has_weight(producer) else None
            before = self._before(producer)
            if before is None or before in self.outputs:
                return None
            tensor = before

    def has_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies an activation with constants, quantized or not."""
        if node.op_type not in WEIGHTED or len(node.input) < 2:
            return False
        return self.is_constant(node.input[1]) and not self.is_constant(node.input[0])

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is constant, at most behind Q and DQ nodes."""
        while tensor not in self.constants:
            producer = self.producers.get(tensor)
            if producer is None or producer.op_type not in _PAIR:
                return False
            tensor = producer.input[0]
        return True

    def _before(self, node: onnx.NodeProto) -> str | None:
        """What an activation reads, if nothing else reads it."""
        if node.op_type in ACTIVATIONS:
            alone = len(self.consumers[node.input[0]]) == 1
            return node.input[0] if alone else None
        if node.op_type != "Mul" or len(node.input) != 2:
            return None
        for value, gate in (node.input, reversed(node.input)):
            sigmoid = self.producers.get(gate)
            if sigmoid is None or sigmoid.op_type not in _GATES or sigmoid.input[0] != value:
                continue
            readers = {id(reader) for reader in self.consumers[value]}
            return value if readers == {id(node), id(sigmoid)} else None
        return None

    def beyond(self, nodes: Iterable[onnx.NodeProto], forward: bool) -> frozenset[str]:
        """Tensors that depend on the nodes' results (forward), or that the nodes depend on.

        What only chooses places, as the indices of a TopK do, is no dependence.
        """
        seeds = {id(node) for node in nodes}
        marked: set[str] = set()
        for node in self.graph.node if forward else reversed(self.graph.node):
            values = values_of(node)
            near, far = (node.input, values) if forward else (values, node.input)
            if id(node) in seeds or not marked.isdisjoint(near):
                marked.update(name for name in far if name and name not in self.constants)
        return frozenset(marked)


def moves_values(node: onnx.NodeProto) -> bool:
    """Whether a node only picks and places values, so that quantization commutes with it.

    For such a node f and one scale, Q(f(x)) = f(Q(x)) holds exactly: Q works on each value alone
    and keeps their order, which is all that a maximum needs.
    """
    if node.op_type == "Resize":
        return bool(attributes(node).get("mode", "nearest") == "nearest")
    return node.op_type in _MOVES
