"""Edits of ONNX graphs: the one place where they are copied, followed, named and cut.

Public, for backends, models, rewrites and studies alike. What says `in place` changes the graph
that it is given; everything else leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Message = TypeVar("Message", onnx.ModelProto, onnx.NodeProto, onnx.ValueInfoProto)


def copied(message: Message) -> Message:
    """A model, node or description of a tensor that can be changed without changing the first."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


# What a graph holds.


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the default operator set; 0 where the graph names none."""
    return int(next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name; text as str."""
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def constants(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.generic]]:
    """The values of the initializers by name."""
    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def fixed_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs, outputs and inferred tensors, where every side is a number."""
    found = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            found[info.name] = tuple(int(d.dim_value) for d in kind.shape.dim)
    return found


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that the graph names or shape inference knows."""
    found = _named_types(proto.graph)
    if any(name and name not in found for node in proto.graph.node for name in node.output):
        found = _named_types(onnx.shape_inference.infer_shapes(proto).graph)
    return found


def _named_types(graph: onnx.GraphProto) -> dict[str, int]:
    infos = (*graph.input, *graph.output, *graph.value_info)
    kinds = {info.name: int(info.type.tensor_type.elem_type) for info in infos}
    found = {name: kind for name, kind in kinds.items() if kind}
    found.update({i.name: int(i.data_type) for i in graph.initializer})
    return found


# Who writes and who reads.


def nodes_by_name(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The nodes by name."""
    return {node.name: node for node in graph.node}


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that writes each tensor; inputs and initializers have none."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, in order; a node that reads it twice counts once."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def leading_to(nodes: Sequence[onnx.NodeProto], tensors: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that tensors depend on, in order.

    Args:
        nodes: In the order of a graph.
        tensors: What is wanted.
    """
    wanted, kept = set(tensors), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


# Names.


class Names:
    """Gives out names that are not taken.

    Args:
        taken: Names in use; `of` collects those of a whole graph.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Names:
        """With all nodes and tensors of a graph taken."""
        used = (name for n in graph.node for name in (n.name, *n.input, *n.output))
        known = (i.name for i in (*graph.input, *graph.output, *graph.initializer))
        return cls((*used, *known))

    def fresh(self, name: str) -> str:
        """The name, or `NAME.2` and so on where it is taken; it is taken now."""
        count, found = 1, name
        while found in self._taken:
            count += 1
            found = f"{name}.{count}"
        self._taken.add(found)
        return found


# Changes in place.


def add_constant(graph: onnx.GraphProto, name: str, values: npt.NDArray[np.generic]) -> str:
    """Adds an initializer in place; returns its name."""
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Gives a graph other nodes, or its own in another order, in place."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def set_constants(graph: onnx.GraphProto, tensors: Iterable[onnx.TensorProto]) -> None:
    """Gives a graph other initializers, in place; those that nothing reads are left out."""
    read = {name for node in graph.node for name in node.input}
    read.update(output.name for output in graph.output)
    kept = [tensor for tensor in tensors if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Removes initializers that nothing reads, in place."""
    set_constants(graph, graph.initializer)


# The same graph with other values, or with more outputs.


def with_constants(
    proto: onnx.ModelProto, values: Mapping[str, npt.NDArray[np.generic]]
) -> onnx.ModelProto:
    """The graph with other values in some of its initializers."""
    copy = copied(proto)
    for constant in copy.graph.initializer:
        if constant.name in values:
            array = np.asarray(values[constant.name])
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    return copy


def exposed(proto: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """The graph with more of its tensors, other than its input, as outputs."""
    copy = copied(proto)
    known = {end.name for end in (*copy.graph.input, *copy.graph.output)}
    for name in dict.fromkeys(tensors):
        if name not in known:
            copy.graph.output.append(helper.make_empty_tensor_value_info(name))
    return copy


def nudged(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every activation scale moved up by one unit in the last place."""
    scales = {node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    known = constants(proto.graph)
    moved = {n: np.nextafter(known[n], np.float32(np.inf)) for n in scales if n in known}
    return with_constants(proto, moved)
