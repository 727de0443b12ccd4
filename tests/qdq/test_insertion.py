"""The Q/DQ graph: its structure, its bytes, and its numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcore.errors import QuantcoreError, RangeError, TableError
from quantcore.qdq.insertion import count_pairs, insert
from quantcore.qdq.scales import symmetric_scale
from quantcore.table.table import CalibrationTable, Provenance, TensorRange


@pytest.fixture
def made(net, planned, table):
    """Inserts under a policy: the proto."""

    def make(model=net, amax: Any = None, backend: str = "by-hand", **policy: Any):
        sites = planned(model, **policy)
        return insert(model, sites, table(model, sites, backend, amax)).proto

    return make


def inputs_of(proto: onnx.ModelProto, node: str) -> list[str]:
    return list(next(n for n in proto.graph.node if n.name == node).input)


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}


def test_one_pair_is_shared_by_all_consumers(made) -> None:
    proto = made()
    counts = Counter(n.op_type for n in proto.graph.node)
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (4, 9)
    assert count_pairs(proto) == {"activations": 4, "weights": 5}
    assert inputs_of(proto, "m.1.conv")[0] == inputs_of(proto, "m.2.conv")[0] == "t1.dequantized"
    readers = [n.name for n in proto.graph.node if "t1" in n.input]
    assert readers == ["t1.quantize", "m.5.add"]


def test_a_consumer_that_a_rule_leaves_out_reads_the_float_tensor(made) -> None:
    proto = made(layers=[{"match": "m.1.conv", "quantize": False}])
    assert inputs_of(proto, "m.1.conv") == ["t1", "w1"]
    assert inputs_of(proto, "m.2.conv")[0] == "t1.dequantized"
    assert initializers(proto)["w1"].dtype == np.float32


def test_biases_stay_float_and_weights_become_int8(made, net) -> None:
    proto = made()
    found = initializers(proto)
    for bias in ("b0", "b2", "b4"):
        np.testing.assert_array_equal(found[bias], net.initializers[bias])
    assert inputs_of(proto, "m.0.conv")[2] == "b0"
    for weight in ("w0", "w1", "w2", "w3", "w4"):
        assert found[f"{weight}.quantized"].dtype == np.int8
        assert found[f"{weight}.zero_point"].dtype == np.int8
        assert found[f"{weight}.scale"].dtype == np.float32
        assert weight not in found, "the float weight is dead"


def test_weights_are_dequantized_along_their_axis(made) -> None:
    proto = made()
    axes = {
        n.name: [helper.get_attribute_value(a) for a in n.attribute if a.name == "axis"]
        for n in proto.graph.node
        if n.op_type == "DequantizeLinear"
    }
    assert axes["w0.dequantize"] == [0]
    assert axes["w3.dequantize"] == [1]
    assert axes["t1.dequantize"] == []
    found = initializers(proto)
    assert found["w3.scale"].shape == (5,)
    assert found["w0.scale"].shape == (8,)
    assert found["t1.scale"].shape == ()


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_linear_weights_come_back_within_half_a_step(build, made, run, op, transposed) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((48, 10)).astype(np.float32) * np.geomspace(1e-3, 10, 10).astype(
        np.float32
    )
    if op == "MatMul" and transposed:
        pytest.skip("MatMul has no transB")
    attributes = {"transB": 1} if transposed else {}
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], "flat"),
        helper.make_node(op, ["flat", "w"], ["y"], "fc", **attributes),
    ]
    model = build(nodes, {"w": np.ascontiguousarray(weight.T if transposed else weight)}, size=4)
    proto = made(model, amax={"flat": 127.0})
    # One-hot rows read the dequantized weight out of the graph; their code is exact.
    rows = np.eye(48, dtype=np.float32).reshape(48, 3, 4, 4)
    found = run(proto, rows)["y"]
    step = np.abs(weight).max(axis=0) / 127
    assert (np.abs(found - weight) <= step * 0.5001).all()
    assert (np.abs(found - weight).max(axis=0) > 0).all()


def test_nodes_come_after_what_they_read(made) -> None:
    proto = made(layers=[{"match": "op:add", "quantize": True}])
    ready = {"images", "", *initializers(proto)}
    for node in proto.graph.node:
        assert set(node.input) <= ready, node.name
        ready.update(node.output)
    assert {o.name for o in proto.graph.output} <= ready


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
def test_the_full_check_of_onnx_passes(build, made, opset) -> None:
    nodes = [helper.make_node("Conv", ["images", "w"], ["y"], "c")]
    model = build(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)}, opset=opset)
    proto = made(model)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset


def test_names_are_unique(made) -> None:
    proto = made(layers=[{"match": "op:concat", "quantize": True}])
    for names in (
        [n.name for n in proto.graph.node],
        [o for n in proto.graph.node for o in n.output],
        [i.name for i in proto.graph.initializer],
    ):
        assert len(names) == len(set(names))


def test_the_same_ranges_from_two_backends_give_the_same_bytes(made) -> None:
    one, two = made(backend="here"), made(backend="there")
    assert one.SerializeToString() == two.SerializeToString()
    other = made(amax={"t1": 3.0})
    assert one.SerializeToString() != other.SerializeToString()


def test_the_manifest_tells_the_backends_apart(net, planned, table) -> None:
    sites = planned(net)
    one, two = (insert(net, sites, table(net, sites, name)).manifest for name in ("here", "there"))
    assert (one["backend"], two["backend"]) == ("here", "there")
    assert one["table_sha256"] != two["table_sha256"]
    assert (one["activations"], one["weights"]) == (4, 5)
    assert one["float_fingerprint"] == net.fingerprint


def test_the_float_model_is_untouched(net, made) -> None:
    before = net.proto.SerializeToString(deterministic=True)
    proto = made()
    proto.graph.initializer[0].name = "changed"
    assert net.proto.SerializeToString(deterministic=True) == before


def test_a_weight_of_a_quantized_and_a_float_layer_is_there_twice(build, made) -> None:
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], "one", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w"], ["y"], "two"),
    ]
    model = build(nodes, {"w": np.ones((3, 3, 3, 3), np.float32)})
    proto = made(model, layers=[{"match": "two", "quantize": False}])
    assert inputs_of(proto, "one") == ["images.dequantized", "w.dequantized"]
    assert inputs_of(proto, "two") == ["a", "w"]
    assert {"w", "w.quantized"} <= initializers(proto).keys()


def test_a_tensor_read_twice_by_a_layer_is_replaced_twice(build, made) -> None:
    model = build([helper.make_node("Add", ["images", "images"], ["y"], "twice")], {})
    proto = made(model, layers=[{"match": "twice", "quantize": True}])
    assert inputs_of(proto, "twice") == ["images.dequantized"] * 2


def test_a_head_that_a_layer_reads_on_stays_float(build, made) -> None:
    nodes = [
        helper.make_node("Relu", ["images"], ["a"], "act"),
        helper.make_node("Conv", ["a", "w"], ["y"], "c"),
    ]
    model = build(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)}, ("a", "y"))
    proto = made(model)
    assert [o.name for o in proto.graph.output] == ["a", "y"]
    assert inputs_of(proto, "c")[0] == "a.dequantized"


def test_names_that_the_float_graph_uses_already_do_not_collide(build, made, run) -> None:
    # The onnx plugin turns a batch-norm that follows no convolution into exactly this.
    nodes = [
        helper.make_node("Mul", ["images", "a.scale"], ["a"], "norm.mul"),
        helper.make_node("Conv", ["a", "w"], ["y"], "c"),
    ]
    constants = {
        "a.scale": np.full((1, 1, 1), 0.25, np.float32),
        "w": np.ones((1, 3, 1, 1), np.float32),
    }
    model = build(nodes, constants)
    images = np.full((1, 3, 16, 16), 4.0, np.float32)
    found = run(made(model, amax={"a": 127.0}), images)["y"]
    np.testing.assert_array_equal(found, run(model.proto, images)["y"])


# Tables that do not fit.


def test_a_table_of_another_graph_is_refused(net, build, planned, table) -> None:
    sites = planned(net)
    good = table(net, sites)
    other = Provenance("other", "0" * 64, "by-hand")
    with pytest.raises(TableError, match=r"another graph \(other, 000000000000\)"):
        insert(net, sites, CalibrationTable(good.tensors, other))


@pytest.mark.parametrize(("gone", "layer"), [("t1", "m.1.conv"), ("w3", "m.3.up")])
def test_a_table_that_lacks_a_tensor_is_refused(net, planned, table, gone, layer) -> None:
    sites = planned(net)
    good = table(net, sites)
    rest = {name: found for name, found in good.tensors.items() if name != gone}
    with pytest.raises(TableError, match=f"no range for .*'{gone}' of layer '{layer}'"):
        insert(net, sites, CalibrationTable(rest, good.provenance))


def test_ranges_that_no_site_wants_do_no_harm(net, planned, table, made) -> None:
    sites = planned(net)
    good = table(net, sites)
    more = {**good.tensors, "elsewhere": TensorRange.symmetric("activation", 1.0)}
    found = insert(net, sites, CalibrationTable(more, good.provenance)).proto
    assert found.SerializeToString() == made().SerializeToString()


@pytest.mark.parametrize(
    ("tensor", "wrong"),
    [
        ("w0", TensorRange.symmetric("weight", 1.0)),
        ("w0", TensorRange.symmetric("weight", [1.0] * 7, 0)),
        ("w0", TensorRange.symmetric("weight", [1.0] * 3, 1)),
        ("w3", TensorRange.symmetric("weight", [1.0] * 6, 0)),
        ("t1", TensorRange.symmetric("activation", [1.0] * 8, 1)),
        ("t1", TensorRange.symmetric("weight", 1.0)),
        ("w0", TensorRange.symmetric("weight", [0.0] * 8, 0)),
        ("w0", TensorRange.symmetric("weight", [1.0] * 8, 0, 32)),
    ],
    ids=[
        "per tensor",
        "7 of 8",
        "wrong axis",
        "wrong axis up",
        "channels",
        "role",
        "zero",
        "block",
    ],
)
def test_a_range_shaped_unlike_its_site_is_refused(net, planned, table, tensor, wrong) -> None:
    sites = planned(net)
    good = table(net, sites)
    bad = CalibrationTable({**good.tensors, tensor: wrong}, good.provenance)
    with pytest.raises(QuantcoreError, match=tensor):
        insert(net, sites, bad)


def test_a_policy_of_another_granularity_is_refused(net, planned, table) -> None:
    channels = table(net, planned(net))
    with pytest.raises(QuantcoreError, match="w0"):
        insert(net, planned(net, weights={"granularity": "per_tensor"}), channels)


def test_a_range_without_a_scale_names_tensor_and_layer(net, planned, table) -> None:
    sites = planned(net)
    with pytest.raises(RangeError, match=r"'t3' of m\.3\.up"):
        insert(net, sites, table(net, sites, amax={"t3": 1e-45}))


# Numbers.


def fake(values: np.ndarray, amax: Any, axis: int | None = None) -> np.ndarray:
    """Quantized and back, spelled out."""
    shape = [1] * values.ndim
    if axis is not None:
        shape[axis] = -1
    scale = (np.asarray(amax, np.float64) / 127).reshape(shape if axis is not None else ())
    return np.clip(np.round(values.astype(np.float64) / scale), -128, 127) * scale


def conv(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: int, pad: int) -> np.ndarray:
    """A convolution by its definition, in float64."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    k = w.shape[2]
    height, width = ((n - k) // stride + 1 for n in x.shape[2:])
    y = np.zeros((len(x), len(w), height, width))
    for i in range(height):
        for j in range(width):
            window = x[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, :, i, j] = np.tensordot(window, w, axes=([1, 2, 3], [1, 2, 3]))
    return y if b is None else y + b.reshape(1, -1, 1, 1)


def test_the_graph_computes_what_fake_quantization_by_hand_does(build, made, run) -> None:
    # All scales are powers of two, so that float32 sums are exact and rounding cannot flip.
    rng = np.random.default_rng(3)
    w0 = (rng.integers(-120, 121, (4, 3, 3, 3)) / 256 + rng.normal(0, 1e-4, (4, 3, 3, 3))).astype(
        "f4"
    )
    w1 = (rng.integers(-120, 121, (2, 4, 1, 1)) / 64 + rng.normal(0, 1e-4, (2, 4, 1, 1))).astype(
        "f4"
    )
    b0 = (rng.integers(-50, 50, 4) / 16).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w0", "b0"], ["a"], "c0", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("LeakyRelu", ["a"], ["b"], "act", alpha=0.125),
        helper.make_node("Conv", ["b", "w1"], ["y"], "c1"),
    ]
    model = build(nodes, {"w0": w0, "b0": b0, "w1": w1})
    amax = {
        "images": 127 / 128,
        "b": 127 / 16,
        "w0": np.array([127 / 256, 127 / 128, 127 / 256, 127 / 512]),
        "w1": np.array([127 / 64, 127 / 32]),
    }
    images = (rng.random((2, 3, 16, 16)) * 1.4 - 0.2).astype(np.float32)
    a = conv(fake(images, amax["images"]), fake(w0, amax["w0"], 0), b0, 2, 1)
    b = np.where(a >= 0, a, a * 0.125)
    expected = conv(fake(b, amax["b"]), fake(w1, amax["w1"], 0), None, 1, 0)
    found = run(made(model, amax=amax), images)["y"]
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    plain = conv(images, w0.astype(np.float64), b0, 2, 1)
    assert np.abs(plain - a).max() > 1e-3, "quantization changes something"


def test_optimized_and_exact_sessions_agree(net, made, table, planned) -> None:
    from quantcore.contracts.engine import EngineOptions
    from quantcore.contracts.registry import load_engine

    proto = made()
    images = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    engine = load_engine("onnxruntime")
    with (
        engine.build(proto, EngineOptions()) as fast,
        engine.build(proto, EngineOptions(exact=True)) as exact,
    ):
        one, two = fast.infer(images), exact.infer(images)
    for name, values in two.items():
        # Fused integer convolutions requantize: a code may flip here and there.
        assert np.abs(one[name] - values).mean() < 0.01 * np.abs(values).mean()


def test_the_batch_stays_dynamic(made, run) -> None:
    proto = made()
    rng = np.random.default_rng(0)
    images = rng.random((3, 3, 16, 16), dtype=np.float32)
    together = run(proto, images)["z"]
    alone = np.concatenate([run(proto, image[None])["z"] for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_scale_of_an_activation_is_amax_over_127(made, net) -> None:
    found = initializers(made(amax={"t1": 2.54}))
    assert found["t1.scale"] == symmetric_scale(TensorRange.symmetric("activation", 2.54))
    assert found["t1.scale"] == np.float32(np.float32(2.54) / np.float32(127))
    assert (
        next(i.data_type for i in made().graph.initializer if i.name == "t1.zero_point")
        == TensorProto.INT8
    )
