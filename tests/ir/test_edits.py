"""Edits of graphs: what is copied, followed, named and cut."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcore.ir import edits

node = helper.make_node
info = helper.make_tensor_value_info


@pytest.fixture
def proto() -> onnx.ModelProto:
    """x -> a -> (b twice read by c) -> y, and d that leads nowhere."""
    nodes = [
        node("Mul", ["x", "w"], ["a"], "a"),
        node("Resize", ["a", "", "scales"], ["b"], "b", mode="nearest"),
        node("Mul", ["b", "b"], ["y"], "c"),
        node("Relu", ["a"], ["d"], "d"),
    ]
    constants = [
        numpy_helper.from_array(np.full((1, 3, 1, 1), 2, np.float32), "w"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.zeros(1, np.float32), "idle"),
    ]
    x, y = info("x", TensorProto.FLOAT, ["batch", 3, 4, 4]), info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    graph.value_info.append(info("d", TensorProto.FLOAT, [1, 3, 4, 4]))
    opsets = [helper.make_opsetid("other", 3), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def names(nodes: list[onnx.NodeProto]) -> list[str]:
    return [each.name for each in nodes]


def test_a_copy_is_another_one(proto) -> None:
    for message in (proto, proto.graph.node[0], proto.graph.value_info[0]):
        copy = edits.copied(message)
        assert copy == message
        assert copy is not message
    copy = edits.copied(proto)
    copy.graph.node[0].name = "other"
    assert proto.graph.node[0].name == "a"


def test_what_a_graph_holds(proto) -> None:
    assert edits.opset_of(proto) == 17
    assert edits.opset_of(onnx.ModelProto()) == 0
    assert edits.attributes(proto.graph.node[1]) == {"mode": "nearest"}
    assert list(edits.constants(proto.graph)) == ["w", "scales", "idle"]
    assert edits.constants(proto.graph)["scales"].tolist() == [1, 1, 2, 2]
    # Neither a named side nor a shape that is not there is a fixed one; a scalar's is.
    proto.graph.value_info.append(info("s", TensorProto.FLOAT, []))
    assert edits.fixed_shapes(proto.graph) == {"d": (1, 3, 4, 4), "s": ()}


def test_who_writes_and_who_reads(proto) -> None:
    graph = proto.graph
    assert edits.nodes_by_name(graph)["c"] == graph.node[2]
    assert {t: n.name for t, n in edits.producers(graph).items()} == {
        "a": "a",
        "b": "b",
        "y": "c",
        "d": "d",
    }
    readers = edits.consumers(graph)
    assert names(readers["a"]) == ["b", "d"]
    assert names(readers["b"]) == ["c"], "it reads the tensor twice and counts once"
    assert names(edits.leading_to(graph.node, ["y"])) == ["a", "b", "c"]
    assert names(edits.leading_to(graph.node, ["d"])) == ["a", "d"]
    assert edits.leading_to(graph.node, ["x"]) == []


def test_names_are_fresh(proto) -> None:
    given = edits.Names.of(proto.graph)
    assert [given.fresh(name) for name in ("new", "new", "c", "y", "x", "idle")] == [
        *("new", "new.2", "c.2", "y.2", "x.2", "idle.2")
    ]
    some = edits.Names(["a", "a.2"])
    assert [some.fresh("a"), some.fresh("b")] == ["a.3", "b"]


def test_what_nothing_needs_goes(proto) -> None:
    graph = proto.graph
    assert edits.add_constant(graph, "more", np.ones(2, np.float32)) == "more"
    edits.set_nodes(graph, edits.leading_to(graph.node, ["d"]))
    assert names(list(graph.node)) == ["a", "d"]
    edits.drop_unread(graph)
    assert [i.name for i in graph.initializer] == ["w"]
    # An initializer may be an output by itself.
    edits.add_constant(graph, "y", np.ones(2, np.float32))
    edits.drop_unread(graph)
    assert [i.name for i in graph.initializer] == ["w", "y"]


def test_nodes_can_be_put_in_another_order(proto) -> None:
    edits.set_nodes(proto.graph, reversed(proto.graph.node))
    assert names(list(proto.graph.node)) == ["d", "c", "b", "a"]


def test_tensors_are_exposed_once(proto, run) -> None:
    shown = edits.exposed(proto, ["x", "a", "a", "y"])
    assert [o.name for o in shown.graph.output] == ["y", "a"]
    assert [o.name for o in proto.graph.output] == ["y"]


def test_constants_get_other_values(proto) -> None:
    moved = edits.with_constants(proto, {"w": np.zeros(3, np.float32), "none": np.ones(1)})
    assert edits.constants(moved.graph)["w"].tolist() == [0, 0, 0]
    assert edits.constants(proto.graph)["w"].ravel().tolist() == [2, 2, 2]
    assert [i.name for i in moved.graph.initializer] == ["w", "scales", "idle"]


def test_scales_of_activations_are_nudged(proto) -> None:
    graph = proto.graph
    for name in ("scale", "other"):
        edits.add_constant(graph, name, np.array(0.1, np.float32))
    graph.node.append(node("QuantizeLinear", ["d", "scale"], ["codes"], "q"))
    graph.node.append(node("DequantizeLinear", ["weights", "other"], ["e"], "dq"))
    found = edits.constants(edits.nudged(proto).graph)
    assert found["scale"] == np.nextafter(np.float32(0.1), np.float32(1))
    assert found["other"] == np.float32(0.1)
    assert edits.constants(graph)["scale"] == np.float32(0.1)
