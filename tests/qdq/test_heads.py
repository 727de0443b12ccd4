"""Placement, verification and engines on networks like those that people have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.errors import PolicyError
from quantcore.ir.edits import exposed, opset_of
from quantcore.ir.projections import is_projection
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.heads import box_arithmetic
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.qdq.precision import mixed
from quantcore.qdq.verify import TARGETS, check
from quantcore.studies.macs import macs_of, shapes_of
from quantcore.studies.prefix import cut
from quantcore.table.kept import KeptHistograms

PROFILES = ("minimal", "tensorrt", "onnxruntime")
#: What stays float in front of each head; nothing else is "last".
LAST = {
    "dfl": {"box.0.last", "box.1.last", "cls.0.last", "cls.1.last"},
    "gfl": {"head.0.last", "head.1.last"},
    "attention": {"head"},
    "end_to_end": {"box.0.last", "box.1.last", "cls.0.last", "cls.1.last"},
}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).random((1, 3, 32, 32), np.float32)


@pytest.fixture
def quantized(planned, table, run, images):
    """The Q/DQ graph of a model with the ranges of one image."""

    def make(model: Any, **policy: Any) -> onnx.ModelProto:
        sites = planned(model, **{"placement": "tensorrt", **policy})
        names = [s.tensor for s in sites.sites if s.role == "activation" and s.tensor != "images"]
        values = {"images": images, **run(exposed(model.proto, names), images)}
        amax = {name: float(np.abs(values[name]).max()) for name in [*names, "images"]}
        return insert(model, sites, table(model, sites, amax=amax)).proto

    return make


def near(want: np.ndarray, got: np.ndarray) -> float:
    """Mean difference against the mean magnitude."""
    return float(np.abs(want - got).mean() / np.abs(want).mean())


@pytest.mark.parametrize("name", LAST)
def test_what_stands_in_front_of_a_head_is_last(networks, planned, name) -> None:
    found = planned(networks[name], placement="tensorrt").decisions
    assert {d.layer for d in found if d.reason.startswith("tensorrt/last")} == LAST[name]
    assert not any(d.quantized for d in found if d.layer in LAST[name])


@pytest.mark.parametrize("placement", PROFILES)
def test_a_projection_is_never_quantized(networks, planned, placement) -> None:
    rules = [{"match": "op:conv2d", "quantize": True}]
    found = planned(networks["dfl"], placement=placement, layers=rules)
    decisions = {d.layer: d for d in found.decisions}
    assert networks["dfl"].projections == {"dfl.conv"}
    assert not decisions["dfl.conv"].quantized
    assert "never quantized" in decisions["dfl.conv"].reason
    assert decisions["box.0.last"].quantized  # a rule of one's own may quantize what is last


STEPS = np.arange(16, dtype=np.float32)


@pytest.mark.parametrize(
    ("op", "weight", "expected"),
    [
        ("Conv", STEPS.reshape(1, 16, 1, 1), True),
        ("MatMul", STEPS, True),
        ("MatMul", STEPS.reshape(16, 1), True),
        ("MatMul", np.float32([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0]]), True),
        ("Conv", np.ones((4, 4, 1, 1), np.float32), False),
        ("Conv", np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1), False),
        ("Conv", STEPS.reshape(1, 1, 4, 4), False),
        ("Conv", (STEPS + 0.1).reshape(1, 16, 1, 1), False),
    ],
)
def test_weights_of_a_formula_are_told_from_learned_ones(op, weight, expected) -> None:
    assert is_projection(helper.make_node(op, ["x", "w"], ["y"]), weight) is expected


def test_indices_alone_do_not_lead_to_a_layer(drawing, build, planned) -> None:
    net = drawing
    net.silu("images", "stem", 3, 32, 3, strides=[4, 4])
    net.add("Reshape", ["stem.act", [0, 32, 64]], "flat")
    net.conv("stem.act", "score", 32, 1)
    net.add("Reshape", ["score", [0, 1, 64]], "score.flat")
    net.add("TopK", ["score.flat", [8]], "best", "index", axis=2)
    net.add("Tile", ["index", [1, 32, 1]], "index.all")
    net.add("GatherElements", ["flat", "index.all"], "chosen", axis=2)
    net.add("Transpose", ["chosen"], "tokens", perm=[0, 2, 1])
    net.add("MatMul", ["tokens", net.values(32, 32)], "decoder")
    net.add("Relu", ["decoder"], "decoder.act")
    net.add("MatMul", ["decoder.act", net.values(32, 4)], "y")
    found = planned(net.given(build), placement="tensorrt").decisions
    last = {d.layer for d in found if d.reason.startswith("tensorrt/last")}
    assert last == {"score", "y"}


# Attention.


def test_a_product_of_activations_is_a_layer_and_float_by_default(networks, planned) -> None:
    model = networks["attention"]
    layers = {layer.name: layer for layer in model.layers}
    assert layers["scores"].op == layers["mixed"].op == "matmul"
    assert layers["scores"].inputs == ("q.turned", "k.turned")
    assert layers["q"].op == "linear"
    assert macs_of(model)["scores"] == 0
    for placement in ("minimal", "tensorrt"):
        found = {d.layer: d for d in planned(model, placement=placement).decisions}
        assert not found["scores"].quantized
    assert found["scores"].reason.startswith("tensorrt/attention")


@pytest.mark.parametrize(
    "policy",
    [
        {"placement": "tensorrt", "layers": [{"match": "op:matmul", "quantize": True}]},
        {"placement": "onnxruntime"},
    ],
)
def test_a_quantized_product_has_both_inputs_quantized(networks, quantized, run, images, policy):
    model = networks["attention"]
    proto = quantized(model, **policy)
    makers = {name: n.op_type for n in proto.graph.node for name in n.output}
    for node in proto.graph.node:
        if node.name in ("scores", "mixed"):
            assert [makers[name] for name in node.input] == ["DequantizeLinear"] * 2
    assert [v for v in check(proto, policy["placement"]) if v.counts] == []
    assert near(run(model.proto, images)["y"], run(proto, images)["y"]) < 0.1


def test_a_product_that_is_half_quantized_is_found(networks, quantized) -> None:
    rules = [{"match": "tensor:weights", "quantize": True}]
    found = check(quantized(networks["attention"], layers=rules))
    assert [(v.rule, v.node) for v in found if v.counts] == [("half-quantized", "mixed")]


def test_an_add_does_not_fuse_behind_a_product(drawing, build, planned) -> None:
    net = drawing
    net.silu("images", "stem", 3, 16, 3)
    net.add("MatMul", ["stem.act", "stem.act"], "product")
    net.add("Add", ["stem.act", "product"], "added")
    net.conv("added", "y", 16, 16)
    rules = [{"match": "op:matmul", "quantize": True}, {"match": "y", "quantize": True}]
    found = planned(net.given(build), placement="tensorrt", layers=rules).decisions
    assert "no convolution to fuse with" in {d.layer: d.reason for d in found}["added"]


# Tails of indices.


def test_whole_numbers_are_no_layers_and_are_not_quantized(networks, planned) -> None:
    model = networks["end_to_end"]
    assert "sum" not in {layer.name for layer in model.layers}
    assert {"index", "top.index", "class.column"} <= model.not_floats
    found = planned(model, layers=[{"match": "tensor:*", "quantize": True}])
    tensors = {site.tensor for site in found.sites}
    assert "top.boxes" in tensors
    assert not tensors & model.not_floats
    with pytest.raises(PolicyError, match="matches no tensor of floats"):
        planned(model, layers=[{"match": "tensor:index", "quantize": True}])


@pytest.mark.parametrize("placement", PROFILES)
@pytest.mark.parametrize("name", LAST)
def test_graphs_keep_the_rules_and_run(networks, quantized, run, images, name, placement) -> None:
    proto = quantized(networks[name], placement=placement)
    target = placement if placement in TARGETS else "openvino"
    assert [v for v in check(proto, target) if v.counts] == []
    want, got = run(networks[name].proto, images), run(proto, images)
    for head in want:
        # The smallest of changes puts rows that are chosen by score into another order.
        bound = 0.5 if name == "end_to_end" else 0.2
        assert near(np.sort(want[head], axis=1), np.sort(got[head], axis=1)) < bound


@pytest.mark.parametrize("name", LAST)
def test_openvino_agrees(networks, quantized, run, images, name) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    plugin = load_engine("openvino")
    if plugin.caveat():
        pytest.skip(plugin.caveat())
    proto = quantized(networks[name])
    with plugin.build(proto, EngineOptions(threads=1)) as engine:
        got = engine.infer(images)
    for head, want in run(proto, images).items():
        assert near(np.sort(want, axis=1), np.sort(got[head], axis=1)) < 0.1


@pytest.mark.parametrize("name", LAST)
def test_tensorrt_builds(networks, quantized, tmp_path, name) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    from quantcore.engines.tensorrt.options import TensorRtOptions

    proto = quantized(networks[name])
    for what, graph in (("int8", proto), ("int8+fp16", mixed(proto).proto)):
        path = tmp_path / f"{what}.plan"
        load_engine("tensorrt").build_ahead(graph, TensorRtOptions(target="SM86"), path)
        assert path.stat().st_size


@pytest.mark.parametrize("name", LAST)
def test_what_a_table_keeps_of_a_graph_is_enough_to_plan_on(networks, name) -> None:
    model = networks[name]
    outline = KeptHistograms.of(model, {}).outline(model.name)
    assert outline.not_floats == model.not_floats
    rules = [{"match": "op:matmul", "quantize": True}, {"match": "tensor:*", "quantize": True}]
    for placement in PROFILES:
        policy = CalibrationPolicy.from_dict({"placement": placement, "layers": rules})
        assert plan(outline, policy) == plan(model, policy)


# FP16.


def test_the_arithmetic_of_boxes_stays_fp32(networks, quantized, run, images) -> None:
    model = networks["dfl"]
    found = box_arithmetic(model.proto.graph)
    assert found == {
        *("dfl.conv", "dfl", "near", "far", "lower", "upper", "corners", "boxes", "y"),
    }
    assert box_arithmetic(networks["gfl"].proto.graph) == frozenset()
    proto = quantized(model)
    assert box_arithmetic(proto.graph) == found
    half = mixed(proto)
    types = {i.name: i.type.tensor_type.elem_type for i in inferred(half.proto).graph.value_info}
    assert {types[name] for name in ("boxes", "near", "dfl.conv")} == {onnx.TensorProto.FLOAT}
    assert types["dfl.softmax"] == types["scores"] == onnx.TensorProto.FLOAT16
    assert near(run(proto, images)["y"], run(half.proto, images)["y"]) < 0.02


@pytest.mark.parametrize("name", LAST)
def test_the_rest_can_be_fp16(networks, quantized, name) -> None:
    half = mixed(quantized(networks[name])).proto
    assert opset_of(half) == 19
    kinds = {i.name: i.type.tensor_type.elem_type for i in inferred(half).graph.value_info}
    assert onnx.TensorProto.FLOAT16 in kinds.values()
    ends = {o.type.tensor_type.elem_type for o in inferred(half).graph.output}
    assert ends == {onnx.TensorProto.FLOAT}


def inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(proto)


# What studies cut off.


@pytest.mark.parametrize("name", LAST)
def test_the_rest_of_a_changed_graph_computes_the_same(networks, planned, table, run, images, name):
    model = networks[name]
    shapes = shapes_of(model)
    heads = [d.layer for d in planned(model, placement="minimal").decisions if d.weights]
    for layer in (heads[len(heads) // 2], heads[-1]):
        rules = [{"match": layer, "quantize": True}, {"match": "*", "quantize": False}]
        if layer in model.projections:
            continue
        sites = planned(model, layers=rules)
        changed = insert(model, sites, table(model, sites)).proto
        suffix = cut(model, changed, shapes)
        feeds = [name for name in suffix.feeds if name != "images"]
        values = {"images": images, **run(exposed(model.proto, feeds), images)}
        assert not model.not_floats.intersection(suffix.feeds)
        got, want = run(suffix.proto, suffix.pack(values)), run(changed, images)
        for head in suffix.outputs:
            np.testing.assert_allclose(got[head], want[head], rtol=1e-4, atol=1e-4)
