"""Tensors that share one range: the merge, where it is applied, and that it costs nothing exact."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from onnx import helper, numpy_helper

from quantcore.errors import RangeError
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.groups import merged
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import Plan, Site
from quantcore.qdq.scales import quantize, symmetric_scale
from quantcore.qdq.ties import united
from quantcore.table.table import TensorRange


def site(tensor: str, group: str | None, role: str = "activation") -> Site:
    return Site(tensor, role, TensorPolicy(), ("reader",), group=group)


def act(low: float, high: float) -> TensorRange:
    return TensorRange("activation", low, high)


def test_a_group_takes_its_widest_range_and_others_keep_theirs() -> None:
    plan = Plan((site("a", "g"), site("b", "g"), site("c", None), site("d", "h")), ())
    ranges = {"a": act(-1, 1), "b": act(-3, 2), "c": act(-9, 9), "d": act(-4, 4), "e": act(0, 5)}
    found = merged(plan, ranges)
    assert found["a"] == found["b"] == act(-3, 2)
    assert {k: found[k] for k in "cde"} == {k: ranges[k] for k in "cde"}
    assert ranges["a"] == act(-1, 1), "the table keeps what was observed"
    assert merged(plan, found) == found


def test_a_missing_range_is_left_to_be_missed() -> None:
    plan = Plan((site("a", "g"), site("b", "g")), ())
    assert merged(plan, {"a": act(-1, 1)}) == {"a": act(-1, 1)}


def test_ranges_per_channel_cannot_be_shared() -> None:
    plan = Plan((site("a", "g"), site("b", "g")), ())
    wide = TensorRange.symmetric("activation", [1.0, 2.0], 1)
    with pytest.raises(RangeError, match="group 'g'"):
        merged(plan, {"a": act(-1, 1), "b": wide})


def test_overlapping_ties_become_one_group_whatever_their_order() -> None:
    ties = [["a", "b"], ["c", "d"], ["b", "c"], ["x", "y"]]
    for order in permutations(ties):
        groups = united(order)
        assert len({groups[t] for t in "abcd"}) == 1
        assert groups["x"] == groups["y"] != groups["a"]
    assert united([]) == {}


def test_the_inserter_writes_one_scale_for_a_group(net, planned, table) -> None:
    plan = planned(net, placement="onnxruntime", layers=[{"match": "m.6", "quantize": True}])
    # The concat is a head, so nothing ties it; the resize before it is tied to its input.
    sites = {s.tensor: s for s in plan.sites}
    assert sites["t2"].group == sites["t5"].group is not None
    proto = insert(net, plan, table(net, plan, amax={"t2": 1.0, "t5": 3.0})).proto
    scales = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    wanted = symmetric_scale(act(-3, 3))
    assert scales["t2.scale"] == scales["t5.scale"] == wanted


CODES = np.random.default_rng(0).normal(0, 3, (1, 4, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("MaxPool", ["x"], ["y"], "f", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Resize", ["x", "", "k"], ["y"], "f", mode="nearest"),
        helper.make_node("Concat", ["x", "x"], ["y"], "f", axis=1),
        helper.make_node("Transpose", ["x"], ["y"], "f", perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["x"], ["y"], "f"),
        helper.make_node("Slice", ["x", "from", "to", "axes", "steps"], ["y"], "f"),
    ],
    ids=lambda node: node.op_type,
)
@pytest.mark.parametrize("amax", [0.7, 5.0, 127.0])
def test_quantization_commutes_with_what_only_moves_values(node, amax) -> None:
    from onnx.reference import ReferenceEvaluator

    from quantcore.qdq.topology import moves_values

    assert moves_values(node)
    constants = {
        "k": np.array([1, 1, 2, 2], np.float32),
        "from": np.array([1]),
        "to": np.array([7]),
        "axes": np.array([2]),
        "steps": np.array([2]),
    }
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", 1, None)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(v, n) for n, v in constants.items() if n in node.input],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    run = ReferenceEvaluator(model)
    scale = symmetric_scale(act(-amax, amax))

    def fake(x: np.ndarray) -> np.ndarray:
        return quantize(x, scale).astype(np.float32) * scale

    before = run.run(None, {"x": fake(CODES)})[0]
    after = fake(run.run(None, {"x": CODES})[0])
    np.testing.assert_array_equal(before, after)
    # So a second pair of the same scale changes nothing.
    np.testing.assert_array_equal(fake(before), before)
