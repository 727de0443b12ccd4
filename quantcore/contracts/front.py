"""The front of a network: what stands before the last tensor that a backend is asked about.

A detector may go on behind its last quantized layer: it picks the best boxes, gathers them, removes
overlaps. None of that is a backend's business: frameworks lack its operators, and where two scores
are nearly equal two frameworks pick other boxes, so that nothing could be held against anything.
A backend is given the front alone, a float model like any other, whose outputs are the last tensors
before the tail. The core runs the tail, in the engine that everything is held against.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto, helper, shape_inference

from quantcore.ir.edits import (
    copied,
    drop_unread,
    leading_to,
    nodes_by_name,
    producers,
    set_nodes,
)
from quantcore.ir.model import FloatModel
from quantcore.qdq.placement import Plan

#: Operators that pick: what they give jumps where two of their inputs are nearly equal.
SELECTING = frozenset(
    {"ArgMax", "ArgMin", "Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"}
)


@dataclass(frozen=True)
class Front(FloatModel):
    """The front of a float model; pre- and post-processing are those of the whole.

    Attributes:
        whole: The model that it was cut from.
    """

    whole: FloatModel

    @cached_property
    def tail(self) -> onnx.ModelProto:
        """The rest of the graph: from the front's outputs to the whole's that lie behind them."""
        graph = self.whole.proto.graph
        given = {self.input_name, *self.output_names}
        nodes = _behind(list(graph.node), self.whole.output_names, given)
        written = {name for node in nodes for name in node.output}
        read = {name for node in nodes for name in node.input}
        proto = copied(self.whole.proto)
        set_nodes(proto.graph, nodes)
        for ends in (proto.graph.input, proto.graph.value_info):
            del ends[:]
        for name in (n for n in (self.input_name, *self.output_names) if n in read):
            entry = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            proto.graph.input.append(entry)
        outputs = [output for output in graph.output if output.name in written]
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
        drop_unread(proto.graph)
        return proto


def whole(model: FloatModel) -> FloatModel:
    """The model that a front was cut from; any other model itself."""
    return model.whole if isinstance(model, Front) else model


def front(
    model: FloatModel, plans: Iterable[Plan], operators: Collection[str] | None = None
) -> FloatModel:
    """What of a model a backend has to open, so that it can do what plans ask for.

    The tail begins where an operator picks, or is none of the backend's, and no site needs it.

    Args:
        model: The float model.
        plans: What is observed and quantized.
        operators: What the backend materialises; None for everything.

    Returns:
        A `Front`; the model itself where it has no tail.
    """
    nodes = list(model.proto.graph.node)
    wanted = _wanted(model, plans)
    needed = {node.name for node in leading_to(nodes, wanted)}
    tail: list[onnx.NodeProto] = []
    behind: set[str] = set()
    for node in nodes:
        begins = node.op_type in SELECTING or (
            operators is not None and node.op_type not in operators
        )
        if node.name not in needed and (begins or not behind.isdisjoint(node.input)):
            tail.append(node)
            behind.update(node.output)
    if not tail:
        return model
    types = _types(model)
    ends = _frontier(model, tail, behind, types)
    if not ends:
        return model  # nothing but the tail: let the backend say what it lacks
    proto = copied(model.proto)
    set_nodes(proto.graph, leading_to(nodes, {*wanted, *ends}))
    del proto.graph.output[:]
    proto.graph.output.extend(types.get(name) or _unknown(name) for name in ends)
    left = {name for node in proto.graph.node for name in node.output} - set(ends)
    shown = [info for info in proto.graph.value_info if info.name in left]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(shown)
    drop_unread(proto.graph)
    return Front(
        model.name, proto, model.preprocessing, model.decoding, model.class_names, whole=model
    )


def _wanted(model: FloatModel, plans: Iterable[Plan]) -> set[str]:
    """Tensors that sites are at, and what the layers make that read them."""
    by_name = nodes_by_name(model.proto.graph)
    found: set[str] = set()
    for site in (site for plan in plans for site in plan.sites):
        if site.role == "activation":
            found.add(site.tensor)
        for name in site.consumers:
            found.update(by_name[name].output)
    return found


def _frontier(
    model: FloatModel,
    tail: list[onnx.NodeProto],
    behind: set[str],
    types: dict[str, onnx.ValueInfoProto],
) -> list[str]:
    """The float tensors that the tail starts from, behind the heads that it has no part in.

    What is no float, such as shapes, the tail reckons itself.
    """
    makers = producers(model.proto.graph)
    heads = [name for name in model.output_names if name not in behind]
    found = dict.fromkeys(heads)
    waiting = [name for node in tail for name in node.input]
    seen = {*behind, *model.initializers, model.input_name, "", *heads}
    for name in waiting:  # grows
        if name in seen:
            continue
        seen.add(name)
        if name not in types or types[name].type.tensor_type.elem_type == TensorProto.FLOAT:
            found[name] = None
        else:
            waiting.extend(makers[name].input)
    return list(found)


def _behind(
    nodes: list[onnx.NodeProto], outputs: Iterable[str], given: Collection[str]
) -> list[onnx.NodeProto]:
    """The nodes that lead from given tensors to outputs, in order."""
    wanted, kept = set(outputs) - set(given), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(name for name in node.input if name not in given)
            kept.append(node)
    return kept[::-1]


def _types(model: FloatModel) -> dict[str, onnx.ValueInfoProto]:
    """What ONNX infers of each tensor, none of it an error."""
    graph = shape_inference.infer_shapes(model.proto).graph
    return {info.name: info for info in (*graph.value_info, *graph.output)}


def _unknown(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
