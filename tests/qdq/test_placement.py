"""Which tensors a policy quantizes, for which consumers, along which axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from quantcore.errors import PolicyError
from quantcore.policy.policy import TensorPolicy


def by_tensor(found: Any) -> dict[str, Any]:
    return {site.tensor: site for site in found.sites}


def test_convolutions_are_quantized_and_the_rest_is_float(net, planned) -> None:
    found = planned(net)
    sites = by_tensor(found)
    assert [s.tensor for s in found.sites if s.role == "activation"] == ["images", "t1", "t3", "t6"]
    assert {s.tensor for s in found.sites if s.role == "weight"} == {"w0", "w1", "w2", "w3", "w4"}
    assert sites["t1"].consumers == ("m.1.conv", "m.2.conv")
    assert all(site.axis is None for site in found.sites if site.role == "activation")
    assert {"b0", "b2", "b4", "factors"}.isdisjoint(sites)


def test_there_is_a_decision_with_a_reason_for_every_layer(net, planned) -> None:
    found = planned(net, layers=[{"match": "m.1.*", "quantize": False}])
    assert [d.layer for d in found.decisions] == [layer.name for layer in net.layers]
    decisions = {d.layer: d for d in found.decisions}
    assert decisions["m.0.conv"].quantized
    assert not decisions["m.1.conv"].quantized
    assert "m.1.*" in decisions["m.1.conv"].reason
    assert not decisions["m.5.add"].quantized
    assert "float unless" in decisions["m.5.add"].reason


def test_weights_follow_the_axis_of_their_op(net, planned) -> None:
    sites = by_tensor(planned(net))
    assert sites["w0"].axis == 0
    assert sites["w3"].axis == 1


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "axis"),
    [
        ("Gemm", (768, 10), {}, 1),
        ("Gemm", (10, 768), {"transB": 1}, 0),
        ("MatMul", (768, 10), {}, 1),
    ],
)
def test_linear_layers_have_their_outputs_where_the_op_says(
    build, planned, op, shape, attributes, axis
) -> None:
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], "flat"),
        helper.make_node(op, ["flat", "w"], ["y"], "fc", **attributes),
    ]
    model = build(nodes, {"w": np.ones(shape, np.float32)})
    assert by_tensor(planned(model))["w"].axis == axis


def test_weights_per_tensor_have_no_axis(net, planned) -> None:
    found = planned(net, weights={"granularity": "per_tensor"})
    assert {site.axis for site in found.sites} == {None}


def test_a_rule_takes_a_consumer_out(net, planned) -> None:
    sites = by_tensor(planned(net, layers=[{"match": "m.1.conv", "quantize": False}]))
    assert sites["t1"].consumers == ("m.2.conv",)
    assert "w1" not in sites


@pytest.mark.parametrize(
    ("match", "tensor", "consumers"),
    [("op:add", "t2", ("m.5.add",)), ("m.6", "t4", ("m.6",)), ("op:concat", "t5", ("m.6",))],
)
def test_add_and_concat_are_quantized_where_a_rule_says_so(
    net, planned, match, tensor, consumers
) -> None:
    assert tensor not in by_tensor(planned(net))
    sites = by_tensor(planned(net, layers=[{"match": match, "quantize": True}]))
    assert sites[tensor].consumers == consumers


def test_a_shared_tensor_gathers_consumers_of_every_kind(net, planned) -> None:
    sites = by_tensor(planned(net, layers=[{"match": "op:add", "quantize": True}]))
    assert sites["t1"].consumers == ("m.1.conv", "m.2.conv", "m.5.add")


def test_a_tensor_that_a_layer_reads_twice_is_one_site(build, planned) -> None:
    model = build([helper.make_node("Add", ["images", "images"], ["y"], "twice")], {})
    found = planned(model, layers=[{"match": "twice", "quantize": True}])
    assert [(s.tensor, s.consumers) for s in found.sites] == [("images", ("twice",))]


def test_rules_that_want_one_tensor_differently_are_refused(net, planned) -> None:
    with pytest.raises(PolicyError, match=r"'t1' feeds m\.1\.conv and m\.2\.conv.*differently"):
        planned(net, layers=[{"match": "m.2.conv", "activations": {"observer": "max"}}])


def test_rules_that_match_alike_are_not_in_conflict(net, planned) -> None:
    found = planned(net, layers=[{"match": "m.[12].conv", "activations": {"observer": "max"}}])
    assert by_tensor(found)["t1"].policy == TensorPolicy("max")
    assert by_tensor(found)["t3"].policy.observer == "percentile"


def test_a_rule_that_names_no_layer_is_refused(net, planned) -> None:
    with pytest.raises(PolicyError, match=r"'m\.9\.\*' matches no layer"):
        planned(net, layers=[{"match": "m.9.*", "quantize": False}])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"activations": {"granularity": "per_channel"}}, "per-channel activations"),
        ({"activations": {"symmetric": False}}, "placement 'minimal' is not for one alone"),
        ({"activations": {"symmetric": False}, "placement": "tensorrt"}, "takes zero points"),
        ({"weights": {"symmetric": False}}, "weights are written with symmetric codes"),
        ({"weights": {"symmetric": False}, "placement": "onnxruntime"}, "symmetric codes"),
    ],
)
def test_what_cannot_be_written_as_qdq_is_refused_by_layer(net, planned, policy, message) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        planned(net, **policy)
    assert "m.0.conv" in str(caught.value)


def test_the_implementation_travels_with_the_plan(net, planned) -> None:
    assert planned(net).implementation == "native"
    assert planned(net, implementation="portable").implementation == "portable"


def test_one_weight_of_two_layers_is_one_site(build, planned) -> None:
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], "one", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w"], ["y"], "two"),
    ]
    model = build(nodes, {"w": np.ones((3, 3, 3, 3), np.float32)})
    assert by_tensor(planned(model))["w"].consumers == ("one", "two")


def test_one_weight_along_two_axes_is_refused(build, planned) -> None:
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], "one"),
        helper.make_node("ConvTranspose", ["a", "w"], ["y"], "two"),
    ]
    model = build(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)})
    with pytest.raises(PolicyError, match="'w' feeds one and two"):
        planned(model)
