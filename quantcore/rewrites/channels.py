"""Where the channels of a convolution's input come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.ir.edits import attributes
from quantcore.ir.model import FloatModel, LayerInfo
from quantcore.qdq.topology import Topology

#: Nodes that work within each channel, and on x / s as on x for any s > 0; Concat, Resize and
#: Slice do where their attributes say so.
_WITHIN = frozenset({"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"})


@dataclass(frozen=True)
class Source:
    """A tensor with channels of its own that convolutions read.

    Attributes:
        rank: Number of its dimensions.
        depthwise: Whether all of these convolutions are depthwise.
    """

    rank: int
    depthwise: bool


class Channels:
    """The convolutions of a model, and how channels get to them.

    Attributes:
        layers: The convolutions by name, transposed ones too.
        topology: The edges of the graph.
    """

    def __init__(self, model: FloatModel) -> None:
        self._model = model
        ops = ("conv2d", "conv_transpose2d")
        # The weights of a projection belong to a formula: nothing is scaled in front of it.
        self.layers: dict[str, LayerInfo] = {
            x.name: x for x in model.layers if x.op in ops and x.name not in model.projections
        }
        self.topology = Topology(model.proto.graph)

    def rank(self, layer: LayerInfo) -> int:
        """Number of dimensions of what a convolution reads; its weight has as many."""
        return self._model.initializers[layer.weights[0]].ndim

    def sources(self) -> dict[str, Source]:
        """The tensors with channels of their own that convolutions read.

        In graph order. Not among them are the network input, and tensors that are others joined,
        pooled or resized: their channels are those of the others.
        """
        found: dict[str, Source] = {}
        for layer in self.layers.values():
            rank, depthwise = self.rank(layer), self._depthwise(layer)
            for name in self._origins(layer.inputs[0], rank):
                known = found.get(name)
                found[name] = Source(rank, depthwise and (known is None or known.depthwise))
        made = (name for node in self._model.proto.graph.node for name in node.output)
        return {name: found[name] for name in made if name in found}

    def _origins(self, tensor: str, rank: int) -> set[str]:
        """The tensors whose own channels a tensor consists of, without the network input."""
        found, seen, open_ = set(), {self._model.input_name}, [tensor]
        while open_:
            name = open_.pop()
            if name not in seen:
                seen.add(name)
                parts = self.parts(name, rank)
                open_ += parts
                found |= set() if parts else {name}
        return found

    def _depthwise(self, layer: LayerInfo) -> bool:
        """Whether each output channel of a convolution reads one input channel alone."""
        shape = self._model.initializers[layer.weights[0]].shape
        return layer.op == "conv2d" and bool(shape[1] == 1)

    def parts(self, tensor: str, rank: int) -> list[str]:
        """The tensors whose channels make up a tensor, in order; none where they are its own.

        They are the first inputs of the node that makes it.
        """
        node = self.topology.producers.get(tensor)
        if node is None or list(filter(None, node.output)) != [tensor]:
            return []
        inputs = list(node.input) if node.op_type == "Concat" else [node.input[0]]
        computed = self.topology.constants.isdisjoint(inputs)
        return inputs if computed and self._within(node, rank) else []

    def _within(self, node: onnx.NodeProto, rank: int) -> bool:
        """Whether a node treats each channel by itself, and commutes with a positive factor."""
        given = attributes(node)
        if node.op_type == "Concat":
            return int(given["axis"]) % rank == 1
        if node.op_type == "Slice":
            axes = self._constant(node, 3)
            return axes is not None and bool(np.all(axes.astype(np.int64) % rank != 1))
        if node.op_type == "Resize":
            # Cropping puts a value of its own beyond the border.
            cropped = given.get("coordinate_transformation_mode") == "tf_crop_and_resize"
            factors = self._constant(node, 2)
            plain = factors is not None and factors.size == rank and bool(factors[1] == 1)
            return plain and not cropped and "axes" not in given
        return node.op_type in _WITHIN

    def _constant(self, node: onnx.NodeProto, position: int) -> npt.NDArray[np.generic] | None:
        name = node.input[position] if position < len(node.input) else ""
        return self._model.initializers.get(name)
