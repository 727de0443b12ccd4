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


def reading(build, op: str, *rest: Any, opset: int = 17, outputs: int = 1, **told: Any) -> Any:
    """A node that reads the images and constants, as a backend is given it."""
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(rest)]
    heads = [f"y{i}" for i in range(outputs)]
    item = node(op, ["images", *names], heads, "layer.0", **told)
    known = {n: np.asarray(c) for n, c in zip(names, rest, strict=True) if n}
    return nodes(build([item], known, heads, opset=opset))[0]


def test_an_omitted_input_is_none_among_the_operands(build) -> None:
    found = reading(build, "Clip", None, np.float32(6))
    assert found.operands(float)(5.0) == [5.0, None, 6.0]


def test_axes_are_an_attribute_or_an_input(build) -> None:
    for found in (
        reading(build, "ReduceMean", axes=[-1, 1], keepdims=0),
        reading(build, "ReduceMean", np.array([-1, 1]), opset=18),
    ):
        assert found.axes() == (-1, 1)
        assert found.reduced(4) == (1, 3)


def test_a_reduction_without_axes_is_of_all_or_of_none(build) -> None:
    assert reading(build, "ReduceMax").reduced(4) == (0, 1, 2, 3)
    assert reading(build, "ReduceSum", noop_with_empty_axes=1).reduced(4) == ()


@pytest.mark.parametrize(
    ("rest", "opset", "told", "sizes"),
    [
        ((), 11, {"split": [4, 12]}, [4, 12]),
        ((np.array([4, 12]),), 13, {}, [4, 12]),
        ((), 13, {}, [8, 8]),
        ((), 18, {"num_outputs": 2}, [8, 8]),
    ],
    ids=str,
)
def test_sizes_of_a_split_come_from_wherever_the_opset_has_them(
    build, rest, opset, told, sizes
) -> None:
    found = reading(build, "Split", *rest, opset=opset, outputs=2, axis=2, **told)
    assert found.split_sizes(16) == sizes


def test_the_last_part_of_a_split_may_be_smaller(build) -> None:
    found = reading(build, "Split", opset=18, outputs=3, axis=2, num_outputs=3)
    assert found.split_sizes(16) == [6, 6, 4]


def test_slices_end_within_the_axis(build) -> None:
    found = reading(build, "Slice", np.array([1, -3]), np.array([2**63 - 1, -1]), np.array([3, -2]))
    assert found.slices((1, 3, 8, 10)) == [
        slice(None),
        slice(None),
        slice(5, 7, 1),
        slice(1, 10, 1),
    ]


def test_paddings_may_be_of_some_axes(build) -> None:
    found = reading(build, "Pad", np.array([1, 2, 3, 4]), None, np.array([3, 2]), opset=18)
    assert found.paddings(4) == [(0, 0), (0, 0), (2, 4), (1, 3)]


def test_no_window_begins_behind_the_picture(build) -> None:
    told = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1}
    assert reading(build, "MaxPool", **told).begins(8, 7) == (slice(4), slice(4))
