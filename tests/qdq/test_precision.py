"""FP16 beside INT8: every tensor has one type, and the numbers stay near those of FP32."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantcore.errors import ModelError, PolicyError, UsageError
from quantcore.evaluation.decode_graph import append_decode
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.precision import int8_fp16, mixed, with_precision

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
node = helper.make_node


@pytest.fixture
def coded(net, planned, table):
    """The Q/DQ graph of a model under a policy: the proto."""

    def make(model: FloatModel = net, amax: Any = None, **policy: Any) -> onnx.ModelProto:
        plan = planned(model, **policy)
        return insert(model, plan, table(model, plan, amax=amax)).proto

    return make


def types(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types after a strict inference, which refuses an operator of two float types."""
    graph = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True).graph
    infos = (*graph.input, *graph.output, *graph.value_info)
    found = {i.name: i.type.tensor_type.elem_type for i in infos}
    return found | {i.name: i.data_type for i in graph.initializer}


def by_name(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {n.name: n for n in proto.graph.node}


def constants(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}


def images(size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).random((2, 3, size, size), np.float32)


def outputs(proto: onnx.ModelProto, size: int = 16) -> list[np.ndarray]:
    """In the arithmetic that the graph writes, FP16 operations rounded to FP16."""
    if proto.opset_import[0].version < 19:  # from there on the evaluator knows Q and DQ
        proto = onnx.version_converter.convert_version(proto, 19)
    return ReferenceEvaluator(proto).run(None, {"images": images(size)})


def test_layers_become_fp16_and_the_rim_stays_fp32(coded) -> None:
    proto = int8_fp16(coded())
    found, nodes = types(proto), by_name(proto)
    assert [found[i.name] for i in (*proto.graph.input, *proto.graph.output)] == [FLOAT] * 3
    assert [o.name for o in proto.graph.output] == ["y", "z"]
    for name in ("m.0.conv", "m.0.act", "m.1.conv", "m.3.up", "m.4", "m.5.add", "m.6", "m.7.conv"):
        assert found[nodes[name].output[0]] == HALF, name
    assert found[nodes["m.4"].input[2]] == FLOAT, "factors of a Resize are FP32 by its schema"
    assert proto.opset_import[0].version == 19
    onnx.checker.check_model(proto, full_check=True)


def test_pairs_are_typed_by_what_they_stand_between_and_share_one_scale(coded) -> None:
    proto = int8_fp16(coded(amax={"images": 1.0, "t1": 0.7}))
    found, nodes, values = types(proto), by_name(proto), constants(proto)
    quantize, dequantize = nodes["images.quantize"], nodes["images.dequantize"]
    assert (found[quantize.input[0]], found[quantize.input[1]]) == (FLOAT, FLOAT)
    assert (found[dequantize.input[1]], found[dequantize.output[0]]) == (HALF, HALF)
    assert values[quantize.input[1]] == values[dequantize.input[1]].astype(np.float32)
    inner = nodes["t1.quantize"]
    assert (found[inner.input[0]], found[inner.input[1]]) == (HALF, HALF)
    assert {values[n].dtype for n in values if n.endswith("zero_point")} == {np.dtype(np.int8)}


def test_casts_are_few(coded) -> None:
    counts = Counter(n.op_type for n in int8_fp16(coded()).graph.node)
    assert counts["Cast"] == 2, "one for each output; the image goes straight into its Q"


def test_numbers_stay_within_fp16(coded) -> None:
    # The calibrated range covers every code, so that a flipped rounding is one step.
    plain = coded(amax={"images": 1.0})
    for one, other in zip(outputs(plain), outputs(int8_fp16(plain)), strict=True):
        assert one.dtype == other.dtype == np.float32
        spread = np.abs(one).max()
        assert np.abs(one - other).mean() <= 2e-2 * spread
        assert not np.array_equal(one, other), "this was not computed in FP16"


def test_a_float_graph_is_typed_too(net) -> None:
    proto = int8_fp16(net.proto)
    for one, other in zip(outputs(net.proto), outputs(proto), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-2)
    assert Counter(n.op_type for n in proto.graph.node)["Cast"] == 3


def test_onnx_runtime_takes_the_graph(coded, run) -> None:
    plain = coded(amax={"images": 1.0})
    found, wanted = run(int8_fp16(plain), images()), run(plain, images())
    for name, value in wanted.items():
        assert np.abs(found[name] - value).mean() <= 2e-2 * np.abs(value).max()


def test_the_given_graph_is_left_alone(coded) -> None:
    plain = coded()
    before = plain.SerializeToString()
    int8_fp16(plain)
    assert plain.SerializeToString() == before


def test_the_same_graph_gives_the_same_bytes(coded) -> None:
    assert int8_fp16(coded()).SerializeToString() == int8_fp16(coded()).SerializeToString()


def test_named_layers_stay_fp32_between_casts(coded) -> None:
    proto = int8_fp16(coded(), ["m.5.add", "m.2.conv"])
    found, nodes = types(proto), by_name(proto)
    assert [found[i] for i in nodes["m.5.add"].input] == [FLOAT, FLOAT]
    conv = nodes["m.2.conv"]
    assert [found[i] for i in conv.input] == [FLOAT] * 3
    assert found[nodes["w2.dequantize"].output[0]] == FLOAT, "the weight follows its layer"
    assert found[nodes["m.1.conv"].input[0]] == HALF, "and what else reads the tensor does not"
    with pytest.raises(UsageError, match=r"no such layer.*m\.9"):
        int8_fp16(coded(), ["m.9"])


@pytest.fixture
def wide(build):
    """Two convolutions whose first has tiny and huge numbers at hand."""

    def make(tiny: float = 1.0, bias: float = 0.0) -> FloatModel:
        weight = np.full((4, 3, 1, 1), tiny, np.float32)
        nodes = [
            node("Conv", ["images", "w", "b"], ["a"], "one"),
            node("Relu", ["a"], ["r"], "act"),
            node("Conv", ["r", "v"], ["y"], "two"),
        ]
        given = {"w": weight, "b": np.full(4, bias, np.float32)}
        return build(nodes, {**given, "v": np.ones((2, 4, 1, 1), np.float32)})

    return make


def test_a_scale_that_fp16_loses_keeps_its_layer_in_fp32(coded, wide) -> None:
    result = mixed(coded(wide(tiny=1e-7)))
    assert set(result.kept) == {"w.dequantize", "one"}
    assert "'w.scale'" in result.kept["one"]
    found, nodes = types(result.proto), by_name(result.proto)
    assert found[nodes["one"].output[0]] == FLOAT
    assert found[nodes["two"].input[0]] == HALF
    assert constants(result.proto)["w.scale"] == pytest.approx(1e-7 / 127, rel=1e-6)


def test_an_activation_scale_that_fp16_loses_keeps_the_pair_in_fp32(coded, wide) -> None:
    result = mixed(coded(wide(), amax={"r": 1e-9}))
    assert set(result.kept) == {"r.quantize", "r.dequantize", "two"}
    nodes, found = by_name(result.proto), types(result.proto)
    assert [found[i] for i in nodes["r.quantize"].input[:2]] == [FLOAT, FLOAT]


def test_a_subnormal_scale_that_fp16_holds_well_is_taken(coded, wide) -> None:
    assert mixed(coded(wide(tiny=127 * 2.0**-17))).kept == {}


def test_a_constant_beyond_fp16_keeps_its_node_in_fp32(coded, wide) -> None:
    result = mixed(coded(wide(bias=1e5)), ["act", "two"])
    assert set(result.kept) == {"one"}
    assert "'b'" in result.kept["one"]
    assert np.isfinite(outputs(result.proto)[0]).all()


def test_the_decoding_stays_fp32(coded, net) -> None:
    decoding = AnchorDecoding((1, 2), (((8.0, 8.0),), ((9.0, 9.0),)))
    nodes = [
        node("Conv", ["images", "w"], ["y"], "one"),
        node("MaxPool", ["y"], ["z"], "two", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "heads",
        [helper.make_tensor_value_info("images", FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info(o, FLOAT, ["batch", 7, None, None]) for o in "yz"],
        [numpy_helper.from_array(np.ones((7, 3, 1, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    drawn = append_decode(model, decoding, (16, 16))
    proto = int8_fp16(drawn)
    found = types(proto)
    for n in proto.graph.node:
        if n.name.startswith("decode/"):
            assert all(found[o] != HALF for o in n.output), n.name
    assert found["y"] == HALF
    (one,), (other,) = outputs(drawn), outputs(proto)
    np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-2)


def test_names_of_the_graph_are_not_taken_twice(build) -> None:
    nodes = [
        node("Mul", ["images", "a.fp16"], ["a"], "mul"),
        node("Conv", ["a", "w"], ["y"], "conv"),
    ]
    given = {"a.fp16": np.float32(2), "w": np.ones((1, 3, 1, 1), np.float32)}
    proto = int8_fp16(build(nodes, given).proto, ["conv"])
    names = [o for n in proto.graph.node for o in n.output] + list(constants(proto))
    assert len(names) == len(set(names))
    np.testing.assert_allclose(outputs(proto)[0], images().sum(1, keepdims=True) * 2, rtol=1e-2)


def test_a_newer_operator_set_is_kept(build, coded) -> None:
    nodes = [node("Conv", ["images", "w"], ["y"], "one")]
    model = build(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)}, opset=21)
    assert int8_fp16(coded(model)).opset_import[0].version == 21


def test_control_flow_is_refused(build) -> None:
    body = helper.make_graph(
        [node("Identity", ["images"], ["inner"], "id")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, None)],
    )
    nodes = [node("If", ["flag"], ["y"], "if", then_branch=body, else_branch=body)]
    model = build(nodes, {"flag": np.array(True)})
    with pytest.raises(ModelError, match=r"'if'.*control flow"):
        int8_fp16(model.proto)


# What a run and the policy's rules ask for.


def policy(*rules: dict[str, Any]) -> CalibrationPolicy:
    return CalibrationPolicy.from_dict({"placement": "minimal", "layers": list(rules)})


def test_a_run_in_int8_leaves_the_graph_as_it_is(coded, net) -> None:
    plain = coded()
    assert with_precision(net, plain, policy(), "int8").proto is plain
    keep = policy({"match": "m.5.*", "precision": "fp32"})
    assert with_precision(net, plain, keep, "int8").proto is plain


def test_rules_keep_layers_in_fp32_or_put_them_in_fp16(coded, net) -> None:
    plain = coded()
    rules = ({"match": "op:add", "precision": "fp32"}, {"match": "m.0.*", "precision": "fp16"})
    found = {}
    for run in ("int8", "int8+fp16"):
        proto = with_precision(net, plain, policy(*rules), run).proto
        kinds = types(proto)
        found[run] = {
            n.name: kinds[n.output[0]]
            for n in proto.graph.node
            if n.name in ("m.5.add", "m.0.conv", "m.0.act", "m.6")
        }
    assert found["int8+fp16"] == {"m.0.conv": HALF, "m.0.act": HALF, "m.5.add": FLOAT, "m.6": HALF}
    assert found["int8"] == {"m.0.conv": HALF, "m.0.act": HALF, "m.5.add": FLOAT, "m.6": FLOAT}


def test_what_cannot_be_asked_for_is_refused(coded, net) -> None:
    with pytest.raises(UsageError, match="int8 or int8"):
        with_precision(net, coded(), policy(), "fp8")
    rule = policy({"match": "tensor:t1", "precision": "fp16"})
    with pytest.raises(PolicyError, match="a tensor has none"):
        with_precision(net, coded(), rule, "int8")
