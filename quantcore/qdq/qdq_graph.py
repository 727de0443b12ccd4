"""Reading a Q/DQ graph that any tool wrote: its pairs, their scales, what stands between them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from quantcore.ir.edits import attributes, constants, opset_of
from quantcore.qdq.topology import Topology, moves_values

Values = npt.NDArray[np.generic]


class QdqGraph(Topology):
    """A graph with Q and DQ nodes.

    Attributes:
        proto: The model.
        opset: Version of its default operator set.
        values: Constants by name: initializers and the outputs of Constant nodes.
        pairs: Its QuantizeLinear and DequantizeLinear nodes, in order.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        super().__init__(proto.graph)
        self.proto = proto
        self.opset = opset_of(proto)
        self.values: dict[str, Values] = constants(proto.graph)
        for node in proto.graph.node:
            if node.op_type == "Constant" and "value" in attributes(node):
                self.values[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
        self.pairs = [n for n in proto.graph.node if n.op_type in (QUANTIZE, DEQUANTIZE)]

    def nodes(self, *ops: str) -> Iterator[onnx.NodeProto]:
        """The nodes of some operators, in order."""
        return (node for node in self.graph.node if node.op_type in ops)

    def scale(self, node: onnx.NodeProto) -> Values | None:
        """The scale of a Q or DQ node; None where it is computed."""
        return self.values.get(node.input[1])

    def zero_point(self, node: onnx.NodeProto) -> Values | None:
        """The zero point of a Q or DQ node; None where it has none."""
        return self.values.get(node.input[2]) if len(node.input) > 2 else None

    def per_axis(self, node: onnx.NodeProto) -> bool:
        """Whether a Q or DQ node has a scale for each channel; one channel alone has no axis."""
        scale = self.scale(node)
        return scale is not None and scale.size > 1

    def axis(self, node: onnx.NodeProto, rank: int) -> int:
        """The channel axis of a Q or DQ node; 1 where it is not written (ONNX)."""
        axis = int(attributes(node).get("axis", 1))
        return axis + rank if axis < 0 else axis

    def constant_behind(self, node: onnx.NodeProto) -> Values | None:
        """What a Q or DQ node codes, if that is constant: codes, or floats before a Q."""
        name = node.input[0]
        while name not in self.values:
            producer = self.producers.get(name)
            if producer is None or producer.op_type not in (QUANTIZE, DEQUANTIZE, "Identity"):
                return None
            name = producer.input[0]
        return self.values[name]

    def is_computed_from_constants(self, tensor: str) -> bool:
        """Whether a tensor has one value, whatever the image."""
        seen, open_ = {""}, [tensor]
        while open_:
            name = open_.pop()
            if name in seen or name in self.values:
                continue
            seen.add(name)
            producer = self.producers.get(name)
            if producer is None:
                return False
            open_ += producer.input
        return True

    def dequantize(self, tensor: str) -> onnx.NodeProto | None:
        """The DQ node that writes a tensor, or None."""
        producer = self.producers.get(tensor)
        return producer if producer is not None and producer.op_type == DEQUANTIZE else None

    def is_quantized(self, tensor: str) -> bool:
        """Whether a tensor comes out of DQ nodes, at most through nodes that move values."""
        producer = self.producers.get(tensor)
        if producer is None:
            return False
        if producer.op_type == DEQUANTIZE:
            return True
        computed = [i for i in producer.input if i and i not in self.values]
        return moves_values(producer) and bool(computed) and all(map(self.is_quantized, computed))

    def label(self, node: onnx.NodeProto) -> str:
        """A node's name, or what else finds it."""
        return node.name or f"{node.op_type} -> {', '.join(node.output)}"


QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
