"""Placement profiles: what each does with small graphs, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx import helper

from quantcore.errors import PolicyError
from quantcore.policy.policy import CalibrationPolicy, TensorPolicy
from quantcore.policy.profiles import BUILT_IN, TENSORRT
from quantcore.qdq.insertion import insert
from quantcore.qdq.verify import check

node = helper.make_node


def weight(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) * 0.2).astype(np.float32)


@pytest.fixture
def blocks(build):
    """Residual block with SiLU, two poolings into a concat, an upsample, and a last convolution."""

    def silu(name: str) -> list[Any]:
        return [
            node("Sigmoid", [name], [f"{name}s"], f"{name}.sigmoid"),
            node("Mul", [name, f"{name}s"], [f"{name}a"], f"{name}.act"),
        ]

    nodes = [
        node("Conv", ["images", "w0"], ["a"], "stem"),
        *silu("a"),
        node("Conv", ["aa", "w1"], ["b"], "cv1"),
        *silu("b"),
        node("Add", ["aa", "ba"], ["c"], "add"),
        node("Conv", ["c", "w2", "b2"], ["d"], "cv2"),
        *silu("d"),
        node("MaxPool", ["da"], ["p"], "pool", kernel_shape=[3, 3], pads=[1] * 4),
        node("Concat", ["da", "p"], ["e"], "cat", axis=1),
        node("Conv", ["e", "w3"], ["f"], "narrow"),
        node("Conv", ["e", "w4"], ["g"], "wide"),
        node("Resize", ["g", "", "k"], ["h"], "up", mode="nearest"),
        node("Conv", ["h", "w5"], ["y"], "head"),
        node("MaxPool", ["f"], ["z"], "loose", kernel_shape=[2, 2]),
    ]
    constants = {
        "w0": weight(16, 3, 1, 1),
        "w1": weight(16, 16, 1, 1),
        "w2": weight(16, 16, 1, 1),
        "b2": weight(16),
        "w3": weight(8, 32, 1, 1),
        "w4": weight(16, 32, 1, 1),
        "w5": weight(6, 16, 1, 1),
        "k": np.array([1, 1, 2, 2], np.float32),
    }
    return build(nodes, constants, ("y", "z"))


def activations(plan) -> dict[str, tuple[str, ...]]:
    return {s.tensor: s.consumers for s in plan.sites if s.role == "activation"}


def groups(plan) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for site in plan.sites:
        if site.group:
            found.setdefault(site.group, set()).add(site.tensor)
    return {frozenset(tensors) for tensors in found.values()}


def reasons(plan) -> dict[str, str]:
    return {d.layer: d.reason for d in plan.decisions}


def test_minimal_quantizes_weighted_layers_alone(blocks, planned) -> None:
    plan = planned(blocks, placement="minimal")
    assert activations(plan) == {
        "images": ("stem",),
        "aa": ("cv1",),
        "c": ("cv2",),
        "e": ("narrow", "wide"),
        "h": ("head",),
    }
    assert [s.tensor for s in plan.sites][:4] == ["images", "w0", "aa", "w1"]
    assert not groups(plan)


def test_tensorrt_is_the_default() -> None:
    assert CalibrationPolicy().placement is TENSORRT


def test_tensorrt_quantizes_skips_and_ties_what_moves_values(blocks, planned) -> None:
    plan = planned(blocks, placement="tensorrt", layers=[{"match": "head", "quantize": True}])
    assert activations(plan) == {
        "images": ("stem",),
        "aa": ("cv1", "add"),  # the skip; "ba" comes out of the convolution that add fuses with
        "c": ("cv2",),
        "da": ("pool", "cat"),
        "p": ("cat",),
        "e": ("wide",),
        "g": ("up",),
        "h": ("head",),
    }
    assert groups(plan) == {frozenset({"da", "p", "e"}), frozenset({"g", "h"})}


def test_every_reason_names_who_decided(blocks, planned) -> None:
    plan = planned(blocks, placement="tensorrt", layers=[{"match": "cv2", "quantize": False}])
    found = reasons(plan)
    assert found["head"].startswith("tensorrt/last: ")
    assert found["narrow"].startswith("tensorrt/last: ")
    assert found["stem"].startswith("tensorrt/first: ")
    assert found["add"].startswith("tensorrt/residual: ")
    assert found["add"].endswith("fuses with cv1")
    assert found["cat"].startswith("tensorrt/equal-scales: ")
    assert "nobody reads it quantized" in found["loose"]
    assert found["cv2"] == "rule 'cv2'"
    assert "float unless" in found["a.act"]


def test_narrow_convolutions_stay_float_unless_they_read_the_image(build, planned) -> None:
    nodes = [
        node("Conv", ["images", "w0"], ["a"], "first"),
        node("Conv", ["a", "w1"], ["b"], "narrow"),
        node("Conv", ["b", "w2"], ["c"], "depthwise", group=16),
        node("Conv", ["c", "w3"], ["d"], "wide"),
        node("Conv", ["d", "w4"], ["y"], "last"),
    ]
    constants = {
        "w0": weight(8, 3, 1, 1),
        "w1": weight(16, 8, 1, 1),
        "w2": weight(16, 1, 3, 3),
        "w3": weight(16, 16, 1, 1),
        "w4": weight(16, 16, 1, 1),
    }
    plan = planned(build(nodes, constants), placement="tensorrt")
    assert {d.layer: d.quantized for d in plan.decisions} == {
        "first": True,
        "narrow": False,
        "depthwise": False,
        "wide": True,
        "last": False,
    }
    assert "tensorrt/narrow" in reasons(plan)["depthwise"]


def test_an_add_without_a_convolution_to_fuse_with_stays_float(build, planned) -> None:
    nodes = [
        node("Relu", ["images"], ["a"], "relu"),
        node("Add", ["images", "a"], ["b"], "add"),
        node("Conv", ["b", "w"], ["c"], "conv"),
        node("Conv", ["c", "w2"], ["y"], "last"),
    ]
    model = build(nodes, {"w": weight(16, 3, 1, 1), "w2": weight(16, 16, 1, 1)})
    plan = planned(model, placement="tensorrt")
    assert activations(plan) == {"b": ("conv",)}
    assert "no convolution to fuse with" in reasons(plan)["add"]


def test_of_two_convolutions_the_later_one_fuses(build, planned) -> None:
    nodes = [
        node("Conv", ["images", "w"], ["a"], "shortcut"),
        node("Conv", ["images", "w"], ["b"], "main"),
        node("Relu", ["b"], ["c"], "relu"),
        node("Add", ["c", "a"], ["d"], "add"),
        node("Conv", ["d", "w2"], ["y"], "last"),
    ]
    model = build(nodes, {"w": weight(16, 3, 1, 1), "w2": weight(16, 16, 1, 1)})
    plan = planned(model, placement="tensorrt")
    assert activations(plan) == {"images": ("shortcut", "main"), "a": ("add",)}


def test_onnxruntime_quantizes_both_sides_of_an_add(blocks, planned) -> None:
    found = activations(planned(blocks, placement="onnxruntime"))
    assert found["aa"] == ("cv1", "add")
    assert found["ba"] == ("add",)
    assert found["h"] == ("head",)


@pytest.mark.parametrize("name", BUILT_IN)
def test_graphs_are_valid_and_their_tensors_have_one_pair(blocks, planned, table, name) -> None:
    plan = planned(blocks, placement=name)
    proto = insert(blocks, plan, table(blocks, plan)).proto
    quantized = [n.input[0] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized)) == len(activations(plan))


def test_tensorrt_graphs_keep_tensorrts_rules(blocks, planned, table) -> None:
    plan = planned(blocks, placement="tensorrt")
    amax = {name: 1.0 + i for i, name in enumerate(activations(plan))}
    assert check(insert(blocks, plan, table(blocks, plan, amax=amax)).proto, "tensorrt") == ()


def test_a_linear_resize_is_not_tied(build, planned) -> None:
    nodes = [
        node("Conv", ["images", "w"], ["a"], "conv"),
        node("Resize", ["a", "", "k"], ["b"], "up", mode="linear"),
        node("Conv", ["b", "w2"], ["y"], "last"),
    ]
    constants = {"w": weight(16, 3, 1, 1), "w2": weight(16, 16, 1, 1)}
    model = build(nodes, {**constants, "k": np.array([1, 1, 2, 2], np.float32)})
    plan = planned(model, placement="onnxruntime")
    assert set(activations(plan)) == {"images", "b"}
    assert "computes new values" in reasons(plan)["up"]


# The policy's rules against the profile.


def test_a_rule_for_a_layer_goes_before_the_profile(blocks, planned) -> None:
    rules = [{"match": "add", "quantize": False}, {"match": "op:concat", "quantize": False}]
    plan = planned(blocks, placement="tensorrt", layers=rules)
    assert activations(plan)["aa"] == ("cv1",)
    assert "p" not in activations(plan)
    assert not groups(plan)


def test_a_rule_that_only_says_how_leaves_whether_to_the_profile(blocks, planned) -> None:
    rules = [{"match": "*", "activations": {"observer": "max"}}]
    plan = planned(blocks, placement="tensorrt", layers=rules)
    assert {s.policy for s in plan.sites if s.role == "activation"} == {TensorPolicy("max")}
    assert "head" not in {c for s in plan.sites for c in s.consumers}
    assert reasons(plan)["cv1"].endswith("how by rule '*'")


def test_a_skip_takes_the_policy_of_the_layer_that_reads_it(blocks, planned) -> None:
    rules = [{"match": "cv1", "activations": {"observer": "max"}}]
    plan = planned(blocks, placement="tensorrt", layers=rules)
    site = next(s for s in plan.sites if s.tensor == "aa")
    assert (site.policy, site.consumers) == (TensorPolicy("max"), ("cv1", "add"))


def test_tensor_rules_take_out_put_in_and_change(blocks, planned) -> None:
    rules = [
        {"match": "tensor:aa", "quantize": False},
        {"match": "tensor:b", "quantize": True},
        {"match": "tensor:c", "activations": {"observer": "max"}},
    ]
    plan = planned(blocks, layers=rules)
    found = activations(plan)
    assert "aa" not in found
    assert found["b"] == ("b.sigmoid", "b.act")
    assert {s.tensor: s.policy for s in plan.sites}["c"] == TensorPolicy("max")
    with pytest.raises(PolicyError, match="matches no tensor"):
        planned(blocks, layers=[{"match": "tensor:nope", "quantize": False}])
    bad = {"match": "tensor:c", "activations": {"granularity": "per_channel"}}
    with pytest.raises(PolicyError, match="per-channel activations"):
        planned(blocks, layers=[bad])


# Reading profiles.


def test_a_profile_of_ones_own_travels_in_the_policy(tmp_path: Path, blocks, planned) -> None:
    rule = {
        "name": "pools",
        "action": "quantize",
        "ops": ["max_pool"],
        "because": "we want it so",
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "extends": "minimal", "rules": [rule]}))
    policy = tmp_path / "policy.yaml"
    policy.write_text("placement: mine.yaml\n")
    read = CalibrationPolicy.load(policy)
    file.unlink()
    again = CalibrationPolicy.from_dict(yaml.safe_load(yaml.safe_dump(read.to_dict())))
    assert again == read
    plan = planned(blocks, placement=read.to_dict()["placement"])
    assert activations(plan)["da"] == ("pool",)
    assert reasons(plan)["pool"] == "mine/pools: we want it so"
    assert reasons(plan)["cv1"].startswith("mine/weighted: ")


def test_built_in_profiles_are_written_by_name() -> None:
    policy = CalibrationPolicy.from_dict({"placement": "tensorrt"})
    assert policy.placement is TENSORRT
    assert policy.to_dict()["placement"] == "tensorrt"
    assert CalibrationPolicy.from_dict(policy.to_dict()) == policy


def test_every_built_in_rule_has_a_reason_and_a_source() -> None:
    rules = [rule for profile in BUILT_IN.values() for rule in profile.rules]
    assert all(rule.because and rule.source for rule in rules)


GOOD = {"name": "r", "action": "float", "ops": ["add"], "because": "so"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tensortr", "unknown profile 'tensortr'"),
        (3, "must be a name or a file"),
        ("gone.yaml", "cannot read"),
        ({"rules": []}, "mapping with `name`"),
        ({"name": "m", "rule": []}, "unknown keys rule"),
        ({"name": "m", "extends": "nothing"}, "extends must be one of"),
        ({"name": "m", "rules": 1}, "rules must be a list"),
        ({"name": "m", "rules": [1]}, r"rules\[0\]"),
        ({"name": "m", "rules": [{**GOOD, "sources": "x"}]}, r"rules\[0\]: needs name"),
        ({"name": "m", "rules": [{**GOOD, "action": "skip"}]}, "unknown action 'skip'"),
        ({"name": "m", "rules": [{**GOOD, "ops": ["conv"]}]}, r"unknown ops \['conv'\]"),
        ({"name": "m", "rules": [{**GOOD, "ops": []}]}, "unknown ops"),
        ({"name": "m", "rules": [{**GOOD, "position": "middle"}]}, "first or last"),
        ({"name": "m", "rules": [{**GOOD, "fewer_channels_than": "x"}]}, "whole number"),
    ],
)
def test_what_is_no_profile_is_refused(value: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        CalibrationPolicy.from_dict({"placement": value})


@pytest.mark.parametrize("precision", ["fp8", 16, True])
def test_a_precision_is_fp16_or_fp32(precision: Any) -> None:
    with pytest.raises(PolicyError, match="precision must be fp16 or fp32"):
        CalibrationPolicy.from_dict({"layers": [{"match": "a", "precision": precision}]})


def test_a_precision_survives_the_policys_dict() -> None:
    policy = CalibrationPolicy.from_dict({"layers": [{"match": "a", "precision": "fp32"}]})
    assert CalibrationPolicy.from_dict(policy.to_dict()) == policy
    assert CalibrationPolicy().to_dict()["layers"] == []
