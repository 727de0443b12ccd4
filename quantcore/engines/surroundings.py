"""Which nodes of a Q/DQ graph are meant to run in INT8, and what stands around each."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from quantcore.contracts.engine import Surroundings
from quantcore.ir.edits import attributes, consumers, producers

#: Operators that engines have INT8 kernels for, where data and weight are quantized.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Nodes that change a tensor's type and nothing else.
_TYPES_ONLY = ("Cast",)


def meant_for_int8(proto: onnx.ModelProto) -> list[Surroundings]:
    """The nodes in graph order whose data and weight are both dequantized codes.

    Data that passes a Concat of dequantized tensors counts, as engines compute it in INT8 too.
    """
    graph = _Graph(proto)
    return [
        graph.surroundings(node)
        for node in proto.graph.node
        if node.op_type in WEIGHTED
        and graph.dequantized(node.input[0], through=("Concat",))
        and graph.dequantized(node.input[1])
    ]


class _Graph:
    """Who makes and who reads each tensor."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._makers, self._readers = producers(proto.graph), consumers(proto.graph)
        self._shapes: Mapping[str, tuple[int, ...]] = {
            i.name: tuple(i.dims) for i in proto.graph.initializer
        }

    def maker(self, tensor: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, casts left out; None for inputs and constants."""
        found = self._makers.get(tensor)
        while found is not None and found.op_type in _TYPES_ONLY:
            found = self._makers.get(found.input[0])
        return found

    def dequantized(self, tensor: str, through: tuple[str, ...] = ()) -> bool:
        """Whether a tensor is dequantized codes, or made of such alone by one of `through`."""
        maker = self.maker(tensor)
        if maker is None:
            return False
        if maker.op_type in through:
            return all(self.dequantized(t) for t in maker.input)
        return maker.op_type == "DequantizeLinear"

    def surroundings(self, node: onnx.NodeProto) -> Surroundings:
        """What stands around a node."""
        followers = [n.op_type for t in node.output for n in self._readers.get(t, ())]
        groups = int(attributes(node).get("group", 1))
        maker = self.maker(node.input[0])
        behind = maker.op_type if maker is not None else None
        channels_in, channels_out = self._channels(node, groups)
        return Surroundings(
            node.name,
            node.op_type,
            self._bias(node),
            tuple(dict.fromkeys(followers)),
            bool(followers) and set(followers) == {"QuantizeLinear"},
            None if behind == "DequantizeLinear" else behind,
            channels_in,
            channels_out,
            groups,
        )

    def _bias(self, node: onnx.NodeProto) -> str | None:
        if len(node.input) < 3 or not node.input[2]:
            return None
        return "integer" if self.dequantized(node.input[2]) else "float"

    def _channels(self, node: onnx.NodeProto, groups: int) -> tuple[int, int]:
        """Channels in and out, from the weight's codes; zeros where their shape is not known."""
        maker = self.maker(node.input[1])
        shape = self._shapes.get(maker.input[0], ()) if maker is not None else ()
        if len(shape) < 2:
            return 0, 0
        if node.op_type == "Conv":
            return shape[1] * groups, shape[0]
        if node.op_type == "ConvTranspose":
            return shape[0], shape[1] * groups
        transposed = attributes(node).get("transB", 0)
        return (shape[1], shape[0]) if transposed else (shape[-2], shape[-1])
