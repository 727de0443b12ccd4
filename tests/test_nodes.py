"""Nodes, and the runner that every backend shares, on plain Python numbers and strings."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from onnx import helper

from quantcore.contracts.nodes import GraphRunner, Tap, nodes
from quantcore.errors import BackendError

node = helper.make_node


class Value:
    """A value whose death can be seen."""

    def __init__(self, text: str) -> None:
        self.text = text


def spell(item: Any) -> Any:
    """A framework whose tensors are expressions: `relu(images)`."""

    def call(*values: Value) -> Any:
        text = f"{item.name}({','.join(v.text for v in values)})"
        if len(item.outputs) == 1:
            return Value(text)
        return [Value(f"{text}.{i}") for i in range(len(item.outputs))]

    return call


@pytest.fixture
def diamond(build):
    """images -> a -> (b, c) -> d; the second head is a."""
    items = [
        node("Relu", ["images"], ["a"], "A"),
        node("Sigmoid", ["a"], ["b"], "B"),
        node("Tanh", ["a"], ["c"], "C"),
        node("Add", ["b", "c"], ["d"], "D"),
    ]
    return build(items, {}, ("d", "a"))


def run(model: Any, **keywords: Any) -> list[str]:
    return [v.text for v in GraphRunner(model, spell).run(Value("x"), **keywords)]


def test_heads_come_in_the_order_of_the_graph(diamond) -> None:
    assert run(diamond) == ["D(B(A(x)),C(A(x)))", "A(x)"]


def test_a_tap_changes_what_its_consumers_read_and_nobody_else(diamond) -> None:
    tap = Tap(lambda v: Value(f"Q{v.text}"), frozenset({"C"}))
    assert run(diamond, taps={"a": tap}) == ["D(B(A(x)),C(QA(x)))", "A(x)"]


def test_a_tap_on_the_input_works_too(diamond) -> None:
    tap = Tap(lambda v: Value(f"Q{v.text}"), frozenset({"A"}))
    assert run(diamond, taps={"images": tap})[1] == "A(Qx)"


def test_a_tap_is_called_once_however_many_read_it(diamond) -> None:
    seen = []

    def watch(value: Value) -> Value:
        seen.append(value.text)
        return value

    run(diamond, taps={"a": Tap(watch, frozenset({"B", "C"}))})
    assert seen == ["A(x)"]


def test_a_replacement_is_for_everyone_and_comes_before_the_tap(diamond) -> None:
    tap = Tap(lambda v: Value(f"Q{v.text}"), frozenset({"B"}))
    found = run(diamond, taps={"a": tap}, replace={"a": lambda v: Value(f"new<{v.text}>")})
    assert found == ["D(B(Qnew<A(x)>),C(new<A(x)>))", "new<A(x)>"]


def test_the_runner_can_be_used_again(diamond) -> None:
    runner = GraphRunner(diamond, spell)
    first = [v.text for v in runner.run(Value("x"))]
    assert [v.text for v in runner.run(Value("x"))] == first


def test_a_node_with_several_outputs_gives_each_its_value(build) -> None:
    items = [
        node("Split", ["images"], ["p", "q"], "S", axis=2),
        node("Add", ["q", "p"], ["y"], "D"),
    ]
    assert run(build(items, {})) == ["D(S(x).1,S(x).0)"]


@pytest.mark.parametrize("tapped", [False, True])
def test_dead_tensors_are_freed(build, tapped: bool) -> None:
    items = [node("Relu", [f"t{i}" if i else "images"], [f"t{i + 1}"], f"n{i}") for i in range(6)]
    model = build(items, {}, ("t6",))
    alive: dict[str, weakref.ref[Value]] = {}
    most = 0

    def watched(item: Any) -> Any:
        def call(value: Value) -> Value:
            nonlocal most
            made = Value(item.outputs[0])
            alive[item.outputs[0]] = weakref.ref(made)
            most = max(most, sum(r() is not None for r in alive.values()))
            return made

        return call

    taps = {f"t{i}": Tap(lambda v: v, frozenset({f"n{i}"})) for i in range(1, 6)} if tapped else {}
    head = GraphRunner(model, watched).run(Value("x"), taps)[0]
    assert head.text == "t6"
    # What a node reads, what it writes, and what its caller's loop still holds.
    assert most <= 3
    del head
    assert all(r() is None for r in alive.values())


def test_a_tensor_with_a_late_reader_lives_until_then(build) -> None:
    items = [
        node("Relu", ["images"], ["a"], "A"),
        node("Relu", ["a"], ["b"], "B"),
        node("Relu", ["b"], ["c"], "C"),
        node("Add", ["c", "a"], ["y"], "D"),
    ]
    assert run(build(items, {})) == ["D(C(B(A(x))),A(x))"]


def test_constants_stand_where_the_node_wants_them(build) -> None:
    items = [node("Sub", ["two", "images"], ["y"], "S")]
    found = nodes(build(items, {"two": np.float32(2)}))[0]
    assert found.activations == ("images",)
    assert found.operands(lambda c: float(c))(5.0) == [2.0, 5.0]


def test_float_constants_come_in_the_wanted_arithmetic(build) -> None:
    items = [
        node("Sub", ["two", "images"], ["x"], "S"),
        node("Reshape", ["x", "shape"], ["y"], "R"),
    ]
    constants = {"two": np.float32(0.1), "shape": np.array([1, -1])}
    for arithmetic in ("float32", "float64"):
        first, second = nodes(build(items, constants), arithmetic)
        assert first.constants[0].dtype == arithmetic
        assert first.constants[0] == np.float32(0.1)
        assert second.constants[1].dtype == np.int64


def test_optional_inputs_may_be_left_out(build) -> None:
    items = [node("Clip", ["images", "", "six"], ["y"], "C")]
    found = nodes(build(items, {"six": np.float32(6)}))[0]
    assert found.constant(1) is None
    assert found.constant(2) == 6
    assert found.constant(3) is None
    assert found.activations == ("images",)


def test_a_computed_input_is_no_constant(build) -> None:
    items = [node("Relu", ["images"], ["a"], "A"), node("Pow", ["images", "a"], ["y"], "P")]
    with pytest.raises(BackendError, match=r"layer 'P' \(Pow\).*input 1 is computed"):
        nodes(build(items, {}))[1].constant(1)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_automatic_padding_is_refused_by_name(build, auto_pad: str) -> None:
    items = [node("MaxPool", ["images"], ["y"], "P", kernel_shape=[2, 2], auto_pad=auto_pad)]
    with pytest.raises(BackendError, match=r"layer 'P' \(MaxPool\).*auto_pad"):
        nodes(build(items, {}))[0].pads()


def test_geometry_has_defaults(build) -> None:
    items = [node("MaxPool", ["images"], ["y"], "P", kernel_shape=[2, 3], pads=[0, 1, 1, 0])]
    found = nodes(build(items, {}))[0]
    assert found.pair("kernel_shape") == (2, 3)
    assert found.pair("strides") == (1, 1)
    assert found.pads() == (0, 1, 1, 0)
    with pytest.raises(BackendError, match=r"pads .* is not two-dimensional"):
        found.pair("pads")


@pytest.mark.parametrize(
    ("attributes", "scales"),
    [
        ({"mode": "linear"}, [1, 1, 2, 2]),
        ({"coordinate_transformation_mode": "half_pixel"}, [1, 1, 2, 2]),
        ({"nearest_mode": "ceil"}, [1, 1, 2, 2]),
        ({}, [1, 2, 2, 2]),
        ({}, [2, 2]),
    ],
    ids=str,
)
def test_other_resizes_are_refused_by_name(build, attributes, scales) -> None:
    plain = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    item = node("Resize", ["images", "", "s"], ["y"], "R", **{**plain, **attributes})
    if len(scales) == 2:
        item.attribute.append(helper.make_attribute("axes", [2, 3]))
    model = build([item], {"s": np.array(scales, np.float32)}, opset=18)
    with pytest.raises(BackendError, match=r"layer 'R' \(Resize\)"):
        nodes(model)[0].nearest_scales()


def test_a_plain_resize_tells_its_factors(build) -> None:
    plain = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    item = node("Resize", ["images", "", "s"], ["y"], "R", mode="nearest", **plain)
    model = build([item], {"s": np.array([1, 1, 2, 3], np.float32)})
    assert nodes(model)[0].nearest_scales() == (2.0, 3.0)
