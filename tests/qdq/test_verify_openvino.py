"""The rules of target `openvino`: a graph that breaks each, and what OpenVINO does with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.errors import EngineError
from quantcore.qdq.verify import RULES, TARGETS, check

from .drafts import INT8, Draft

pytest.importorskip("openvino", reason="needs openvino")
BATCH = 2


@pytest.fixture(autouse=True)
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO itself, without what quantcore's engine puts in against its mistakes."""
    caveat = load_engine("openvino").caveat()
    if caveat:
        pytest.skip(caveat)
    monkeypatch.setattr("quantcore.engines.openvino._guard", lambda model: None)


def clean(d: Draft) -> None:
    d.conv(d.pair("x"), "y")


def affine(d: Draft) -> None:
    d.conv(d.pair("x", scale=0.05, zero=np.uint8(100)), "y")


def coded_bias(d: Draft) -> None:
    d.constant("b.q", np.arange(4, dtype=np.int32))
    d.constant("b.s", np.full(4, 0.05, np.float32))
    bias = d.add("DequantizeLinear", ["b.q", "b.s"], "b.d", axis=0)
    d.add("Conv", [d.pair("x"), d.weight("w", (4, 4, 1, 1)), bias], "y")


def depthwise_channels(d: Draft) -> None:
    scales = [0.1, 0.05, 0.2, 0.1]
    weight = d.weight("w", (4, 1, 1, 1))
    d.add("Conv", [d.pair("x", scale=scales, axis=1), weight], "y", group=4)


def joined(d: Draft) -> None:
    d.add("Relu", ["x"], "a")
    d.add("Concat", [d.pair("x"), d.pair("a", scale=0.2)], "c", axis=1)
    d.add("Conv", [d.pair("c"), d.weight("w", (4, 8, 1, 1))], "y")


def folded_scale(d: Draft) -> None:
    clean(d)
    d.nodes.insert(0, helper.make_node("Abs", ["raw"], ["x.s"], "abs"))
    d.constants["raw"] = d.constants.pop("x.s")


def product(d: Draft) -> None:
    d.add("Relu", ["x"], "a")
    d.add("MatMul", [d.pair("x"), d.pair("a")], "y")


def gated(d: Draft) -> None:
    d.batch = "batch"
    d.conv(d.pair("x"), "a")
    d.add("Sigmoid", ["a"], "s")
    d.conv(d.pair(d.add("Mul", ["a", "s"], "m")), "y")


KEPT = (clean, affine, coded_bias, depthwise_channels, joined, folded_scale, product, gated)


def wide(d: Draft) -> None:
    d.opset = 21
    d.conv(d.pair("x", scale=1e-3, zero=np.int16(0)), "y")


def shifted_weight(d: Draft) -> None:
    clean(d)
    d.constants["y.w.z"] = np.full(4, 5, INT8)


def unsigned_weight(d: Draft) -> None:
    clean(d)
    d.constants["y.w.q"] = (d.constants["y.w.q"].astype(np.int16) + 128).astype(np.uint8)
    d.constants["y.w.z"] = np.full(4, 128, np.uint8)


def measured_scale(d: Draft) -> None:
    clean(d)
    d.constants["x.s.127"] = d.constants.pop("x.s") * 127
    d.nodes.insert(0, helper.make_node("ReduceMax", ["x"], ["top"], "top", keepdims=0))
    d.nodes.insert(1, helper.make_node("Div", ["top", "x.s.127"], ["x.s"], "scale"))


def mixed_channels(d: Draft) -> None:
    d.conv(d.pair("x", scale=[0.1, 0.05, 0.2, 0.1], axis=1), "y")


def integer(d: Draft) -> None:
    names = [d.constant("s", np.float32(0.1)), d.constant("z", INT8(0))]
    d.add("QuantizeLinear", ["x", *names], "q")
    d.add("ConvInteger", ["q", d.constant("w", np.ones((4, 4, 1, 1), INT8))], "i")
    d.add("Cast", ["i"], "y", to=onnx.TensorProto.FLOAT)


def unpaired_concat(d: Draft) -> None:
    d.add("Relu", ["x"], "a")
    d.add("Concat", [d.pair("x"), d.pair("a", scale=0.2)], "c", axis=1)
    d.add("Conv", ["c", d.weight("w", (4, 8, 1, 1))], "y")


def wrong_axis(d: Draft) -> None:
    d.conv(d.pair("x"), "y", axis=1)


def float_weight(d: Draft) -> None:
    d.add("Conv", [d.pair("x"), d.constant("w", np.ones((4, 4, 1, 1), np.float32))], "y")


def half_product(d: Draft) -> None:
    d.add("Relu", ["x"], "a")
    d.add("MatMul", [d.pair("x"), "a"], "y")


def shared_result(d: Draft) -> None:
    d.batch = "batch"
    d.conv(d.pair("x"), "a")
    bias = d.constant("bias", np.ones(4, np.float32))
    d.add("Conv", [d.pair("a"), d.weight("w", (4, 4, 1, 1)), bias], "b")
    d.add("Add", ["a", "b"], "y")


def negative_scale(d: Draft) -> None:
    d.conv(d.pair("x", scale=-0.1), "y")


def old_axis(d: Draft) -> None:
    d.opset = 12
    clean(d)


#: A graph, the rule that it breaks, the node, and what comes of it.
BROKEN: list[tuple[Callable[[Draft], None], str, str, str]] = [
    (wide, "eight-bits", "n.x.q", "float"),
    (shifted_weight, "symmetric-weight", "n.y.w.d", "float"),
    (unsigned_weight, "symmetric-weight", "n.y.w.d", "float"),
    (measured_scale, "static-scale", "n.x.q", "float"),
    (mixed_channels, "per-tensor-input", "n.y", "float"),
    (integer, "float-integer", "n.i", "float"),
    (unpaired_concat, "concat-pair", "n.y", "float"),
    (wrong_axis, "weight-axis", "n.y.w.d", "float"),
    (float_weight, "half-quantized", "n.y", "float"),
    (half_product, "half-quantized", "n.y", "float"),
    (shared_result, "shared-result", "n.a", "wrong"),
    (negative_scale, "scale-value", "n.x.q", "wrong"),
    (old_axis, "opset", "n.y.w.d", "refused"),
]


def drawn(draw: Callable[[Draft], None]) -> onnx.ModelProto:
    draft = Draft()
    draw(draft)
    return draft.done()


def ran(proto: onnx.ModelProto) -> tuple[bool, set[str | None]]:
    """Whether OpenVINO computes what ONNX Runtime does, and what its layers with weights run in."""
    fixed = proto.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    shape = (1 if fixed else BATCH, 4, 8, 8)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 4
    with load_engine("onnxruntime").build(proto, EngineOptions(threads=1, exact=True)) as engine:
        want: Any = engine.infer(images)["y"]
    with load_engine("openvino").build(proto, EngineOptions(threads=1)) as engine:
        got = engine.infer(images)["y"]
        kinds = ("Convolution", "MatMul", "FullyConnected")
        precisions = {layer.precision for layer in engine.layers() if layer.op in kinds}
    return bool(np.abs(want - got).max() < 0.02 * np.abs(want).max()), precisions


@pytest.mark.parametrize("draw", KEPT)
def test_what_keeps_the_rules_runs_in_int8_and_is_right(draw) -> None:
    proto = drawn(draw)
    assert [v for v in check(proto, "openvino") if v.counts] == []
    assert ran(proto) == (True, {"int8"})


@pytest.mark.parametrize(("draw", "rule", "node", "outcome"), BROKEN)
def test_what_breaks_a_rule_is_told_and_runs_as_the_rule_says(draw, rule, node, outcome) -> None:
    proto = drawn(draw)
    found = [v for v in check(proto, "openvino") if v.rule == rule]
    assert [v.node for v in found][:1] == [node], check(proto, "openvino")
    assert found[0].source == RULES[rule].source
    if outcome == "refused":
        with pytest.raises(EngineError, match="OpenVINO refuses"):
            load_engine("openvino").build(proto, EngineOptions())
        return
    right, precisions = ran(proto)
    assert right == (outcome == "float")
    assert precisions == ({"fp32"} if outcome == "float" else {"int8"})


def test_every_rule_of_its_own_has_a_graph_that_breaks_it() -> None:
    own = set(TARGETS["openvino"]) - set(TARGETS["tensorrt"])
    assert own <= {rule for _, rule, _, _ in BROKEN}


def test_a_fixed_batch_keeps_the_scale_of_a_shared_result() -> None:
    draft = Draft()
    shared_result(draft)
    draft.batch = 1
    assert "shared-result" not in {v.rule for v in check(draft.done(), "openvino")}
    assert ran(draft.done()) == (True, {"int8"})
