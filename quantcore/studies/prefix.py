"""Cuts off the part of a graph that a change cannot reach, so that it is computed only once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantcore.ir.edits import leading_to, producers
from quantcore.ir.model import Array, FloatModel
from quantcore.studies.macs import Shape

_PACKED = "packed.activations"
_FLOAT = TensorProto.FLOAT


@dataclass(frozen=True)
class Suffix:
    """What is left to compute of a changed graph once the float graph has run.

    Attributes:
        proto: A graph with one input, which `pack` makes from the tensors of the float graph.
        feeds: Those tensors, in their order in the input.
        outputs: The heads that the change reaches; the others are as in the float graph.
        weight_bytes: Size of the constants in it.
    """

    proto: onnx.ModelProto
    feeds: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: int

    def pack(self, tensors: Mapping[str, Array]) -> Array:
        """The input of `proto`.

        Engines take one input; several tensors are laid end to end, and split in the graph.
        """
        if len(self.feeds) == 1:
            return tensors[self.feeds[0]]
        return np.concatenate([tensors[name].ravel() for name in self.feeds])


def cut(model: FloatModel, changed: onnx.ModelProto, shapes: Mapping[str, Shape]) -> Suffix:
    """The part of a changed graph behind its first differences from the float graph.

    Nodes that the float graph has not, or has with other inputs, and everything that reads them
    must be computed; every other tensor has its float value. After the extraction of a subgraph
    between tensors as in `onnx.utils.Extractor`, with the boundary found from the change.

    Args:
        model: The float model.
        changed: Its Q/DQ graph, or any graph with the same node names where nothing was changed.
        shapes: Of the float graph's tensors.
    """
    original = {node.name: node.SerializeToString() for node in model.proto.graph.node}
    dirty: set[str] = set()
    reached = []
    for node in changed.graph.node:
        new = original.get(node.name) != node.SerializeToString()
        if new or not dirty.isdisjoint(node.input):
            dirty.update(node.output)
            reached.append(node)
    heads = tuple(name for name in model.output_names if name in dirty)
    nodes = leading_to(reached, heads)
    nodes = _with_producers(model, nodes, shapes)
    return extract(changed, nodes, heads, shapes)


def _feeds(constants: Iterable[str], nodes: Iterable[onnx.NodeProto]) -> tuple[str, ...]:
    """Tensors that the nodes read and that none of them makes, in reading order."""
    nodes = list(nodes)
    made = {name for node in nodes for name in node.output}
    made.update(constants)
    read = (name for node in nodes for name in node.input if name and name not in made)
    return tuple(dict.fromkeys(read))


def _with_producers(
    model: FloatModel, nodes: list[onnx.NodeProto], shapes: Mapping[str, Shape]
) -> list[onnx.NodeProto]:
    """Adds what computes tensors that cannot be handed over: integers, and unknown shapes."""
    order = {node.name: place for place, node in enumerate(model.proto.graph.node)}
    makers = producers(model.proto.graph)
    constants = {i.name for i in model.proto.graph.initializer}
    extra: list[onnx.NodeProto] = []
    while True:
        have = [*extra, *nodes]
        lost = [
            makers[name]
            for name in _feeds(constants, have)
            if name in makers and (name not in shapes or name in model.not_floats)
        ]
        if not lost:
            return have
        found = {node.name: node for node in (*extra, *lost)}
        extra = sorted(found.values(), key=lambda node: order[node.name])


def extract(
    proto: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    outputs: tuple[str, ...],
    shapes: Mapping[str, Shape],
    lost: Iterable[onnx.TensorProto] = (),
) -> Suffix:
    """The graph of some nodes, with what splits the one input in front of them.

    Args:
        proto: Has their constants, and says which opset they are of.
        nodes: In order.
        outputs: Tensors to give.
        shapes: Of the tensors that the nodes read and do not make.
        lost: Constants that the graph may have lost.
    """
    read = {name for node in nodes for name in node.input}
    found = {i.name: i for i in (*lost, *proto.graph.initializer) if i.name in read}
    constants = list(found.values())
    feeds = _feeds(found, nodes)
    size = sum(i.ByteSize() for i in constants)
    front: list[onnx.NodeProto] = []
    if len(feeds) == 1:
        entry = helper.make_tensor_value_info(feeds[0], _FLOAT, shapes[feeds[0]])
    else:
        sizes = [math.prod(shapes[name]) for name in feeds]
        entry = helper.make_tensor_value_info(_PACKED, _FLOAT, [sum(sizes)])
        front = _unpack(feeds)
        constants = [*constants, *_unpacking_constants(feeds, sizes, shapes)]
    kinds = {end.name: end.type.tensor_type.elem_type for end in proto.graph.output}
    ends = [helper.make_tensor_value_info(name, kinds.get(name, _FLOAT), None) for name in outputs]
    graph = helper.make_graph([*front, *nodes], "part", [entry], ends, constants)
    part = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return Suffix(part, feeds, outputs, size)


def _unpack(feeds: Sequence[str]) -> list[onnx.NodeProto]:
    """Nodes that turn the one input into the tensors laid end to end in it."""
    flat = [f"{name}.flat" for name in feeds]
    split = helper.make_node("Split", [_PACKED, f"{_PACKED}.sizes"], flat, _PACKED, axis=0)
    reshapes = (
        helper.make_node("Reshape", [part, f"{part}.shape"], [name], f"{part}.reshape")
        for part, name in zip(flat, feeds, strict=True)
    )
    return [split, *reshapes]


def _unpacking_constants(
    feeds: Sequence[str], sizes: Sequence[int], shapes: Mapping[str, Shape]
) -> list[onnx.TensorProto]:
    integers = {f"{_PACKED}.sizes": sizes}
    integers.update({f"{name}.flat.shape": shapes[name] for name in feeds})
    return [numpy_helper.from_array(np.asarray(v, np.int64), n) for n, v in integers.items()]
