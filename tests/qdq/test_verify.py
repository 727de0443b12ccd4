"""A target's rules against graphs that break one each, and against other tools' graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import TensorProto, helper

from quantcore.commands.verify import verify
from quantcore.errors import CheckpointError, UsageError
from quantcore.qdq.verify import RULES, SEVERITIES, TARGETS, check, load

from .drafts import INT8, Draft


def clean(d: Draft) -> None:
    d.conv(d.pair("x"), "y")


def zero_point(d: Draft) -> None:
    d.conv(d.pair("x", zero=INT8(3)), "y")


def unsigned(d: Draft) -> None:
    d.conv(d.pair("x", zero=np.uint8(0)), "y")


def no_zero_point(d: Draft) -> None:
    d.conv(d.pair("x", zero=None), "y")


def zero_scale(d: Draft) -> None:
    d.conv(d.pair("x", scale=0.0), "y")


def nan_scale(d: Draft) -> None:
    d.conv(d.pair("x", scale=np.nan), "y")


def computed_scale(d: Draft) -> None:
    clean(d)
    d.nodes.insert(0, helper.make_node("Abs", ["raw"], ["x.s"], "abs"))
    d.constants["raw"] = d.constants.pop("x.s")


def half_scale(d: Draft) -> None:
    d.opset = 17
    clean(d)
    d.constants["y.w.s"] = d.constants["y.w.s"].astype(np.float16)


def old_axis(d: Draft) -> None:
    d.opset = 12
    clean(d)


def activation_axis(d: Draft) -> None:
    d.conv(d.pair("x", scale=[0.1, 0.2, 0.3, 0.4], axis=1), "y")


def dangling(d: Draft) -> None:
    clean(d)
    names = [d.constant("s2", np.float32(0.1)), d.constant("z2", INT8(0))]
    d.add("QuantizeLinear", ["y", *names], "unread")


def codes_used(d: Draft) -> None:
    clean(d)
    d.add("Cast", ["x.q"], "cast", to=TensorProto.FLOAT)


def two_pairs(d: Draft) -> None:
    d.conv(d.pair("x"), "a")
    names = ["x.s", "x.z"]
    d.add("QuantizeLinear", ["x", *names], "again.q")
    d.conv(d.add("DequantizeLinear", ["again.q", *names], "again"), "b")
    d.add("Sum", ["a", "b"], "y")


def lowest(d: Draft) -> None:
    clean(d)
    d.constants["y.w.q"][0] = -128


def wrong_axis(d: Draft) -> None:
    d.conv(d.pair("x"), "y", axis=1)


def wrong_count(d: Draft) -> None:
    clean(d)
    d.constants["y.w.s"] = np.full(3, 0.5, np.float32)
    d.constants["y.w.z"] = np.zeros(3, INT8)


def transposed_axis(d: Draft) -> None:
    d.add("ConvTranspose", [d.pair("x"), d.weight("w", (4, 4, 1, 1), 0)], "y")


def gemm_axis(d: Draft) -> None:
    d.add("Flatten", ["x"], "flat")
    d.add("Gemm", [d.pair("flat"), d.weight("w", (10, 256), 1)], "y", transB=1)


def computed_weight(d: Draft) -> None:
    d.add("Reshape", ["x", d.constant("shape", [4, 4, 4, 4])], "kernel")
    d.add("Conv", [d.pair("x"), d.pair("kernel")], "y")


def coded_bias(d: Draft) -> None:
    d.constant("b.q", np.ones(4, np.int32))
    d.constant("b.s", np.full(4, 0.05, np.float32))
    bias = d.add("DequantizeLinear", ["b.q", "b.s"], "b.d", axis=0)
    d.add("Conv", [d.pair("x"), d.weight("w", (4, 4, 1, 1)), bias], "y")


def integer(d: Draft) -> None:
    names = [d.constant("s", np.float32(0.1)), d.constant("z", INT8(0))]
    d.add("QuantizeLinear", ["x", *names], "q")
    d.add("ConvInteger", ["q", d.constant("w", np.ones((4, 4, 1, 1), INT8))], "i")
    d.add("Cast", ["i"], "y", to=TensorProto.FLOAT)


def float_input(d: Draft) -> None:
    d.conv("x", "y")


def float_weight(d: Draft) -> None:
    d.add("Conv", [d.pair("x"), d.constant("w", np.ones((4, 4, 1, 1), np.float32))], "y")


def float_skip(d: Draft) -> None:
    d.add("Relu", [d.conv(d.pair("x"), "a")], "b")
    d.add("Add", ["x", "b"], "y")


def unequal_concat(d: Draft) -> None:
    d.add("Relu", ["x"], "a")
    d.add("Concat", [d.pair("x"), d.pair("a", scale=0.2)], "y", axis=1)


def unequal_pool(d: Draft) -> None:
    d.add("MaxPool", [d.pair("x")], "p", kernel_shape=[2, 2])
    d.conv(d.pair("p", scale=0.2), "y")


def mixed_concat(d: Draft) -> None:
    d.add("Relu", ["x"], "a")
    d.add("Concat", [d.pair("x"), "a"], "y", axis=1)


def invalid(d: Draft) -> None:
    clean(d)
    d.nodes[-1].attribute.append(helper.make_attribute("nonsense", 1))


def foreign(d: Draft) -> None:
    clean(d)
    d.nodes[0].domain = "com.microsoft"


CASES: list[tuple[Callable[[Draft], None], str, str, str]] = [
    (zero_point, "zero-point", "n.x.q", "the zero point is 3, not 0"),
    (unsigned, "code-type", "n.x.q", "codes are uint8"),
    (no_zero_point, "code-type", "n.x.q", "no zero point given"),
    (zero_scale, "scale-value", "n.x.q", "the scale is 0"),
    (nan_scale, "scale-value", "n.x.q", "the scale is nan"),
    (computed_scale, "scale-constant", "n.x.q", "'x.s' is not constant"),
    (half_scale, "scale-type", "n.y.w.d", "needs opset 19"),
    (old_axis, "opset", "n.y.w.d", "needs opset 13"),
    (foreign, "opset", "n.x.q", "domain 'com.microsoft'"),
    (activation_axis, "activation-per-channel", "n.x.q", "per channel"),
    (dangling, "dangling", "n.unread", "no DequantizeLinear"),
    (codes_used, "dangling", "n.x.q", "read by n.cast (Cast)"),
    (two_pairs, "duplicate", "n.again.q", "has 2 pairs"),
    (lowest, "weight-lowest", "n.y.w.d", "4 weight codes are -128"),
    (wrong_axis, "weight-axis", "n.y.w.d", "axis 1, its output channels are axis 0"),
    (wrong_count, "weight-axis", "n.y.w.d", "3 scales for 4 channels"),
    (transposed_axis, "weight-axis", "n.w.d", "axis 0, its output channels are axis 1"),
    (gemm_axis, "weight-axis", "n.w.d", "axis 1, its output channels are axis 0"),
    (computed_weight, "weight-constant", "n.kernel.d", "is not constant"),
    (coded_bias, "bias", "n.y", "bias is quantized (int32)"),
    (integer, "integer-operator", "n.i", "ConvInteger"),
    (float_input, "half-quantized", "n.y", "the input is float"),
    (float_weight, "half-quantized", "n.y", "the weight is float"),
    (float_skip, "residual", "n.y", "'x' is float, n.a is quantized"),
    (unequal_concat, "equal-scales", "n.y", "unequal scales"),
    (unequal_pool, "equal-scales", "n.p", "unequal scales"),
    (mixed_concat, "equal-scales", "n.y", "a are float"),
    (invalid, "valid", "graph", "nonsense"),
]


def drawn(draw: Callable[[Draft], None]) -> onnx.ModelProto:
    draft = Draft()
    draw(draft)
    return draft.done()


@pytest.mark.parametrize("target", TARGETS)
def test_a_clean_graph_breaks_nothing(target: str) -> None:
    assert [v for v in check(drawn(clean), target) if v.counts] == []


@pytest.mark.parametrize(
    ("draw", "rule", "node", "message"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_a_graph_that_breaks_a_rule_is_told_which(draw, rule, node, message) -> None:
    found = [v for v in check(drawn(draw), "tensorrt") if v.rule == rule]
    assert found, check(drawn(draw), "tensorrt")
    assert found[0].node == node
    assert message in found[0].message
    assert found[0].source == RULES[rule].source


def test_every_rule_of_tensorrt_has_a_graph_that_breaks_it() -> None:
    assert {case[1] for case in CASES} == set(TARGETS["tensorrt"])


def test_rules_are_whole_and_targets_name_rules() -> None:
    assert all(r.text and r.source and r.severity in SEVERITIES for r in RULES.values())
    assert {name for names in TARGETS.values() for name in names} == set(RULES)
    assert all(len(names) == len(set(names)) for names in TARGETS.values())


def test_scales_in_constant_nodes_are_read(tmp_path: Path) -> None:
    proto = drawn(zero_scale)
    moved = [i for i in proto.graph.initializer if i.name.startswith("x.")]
    for value in moved:
        proto.graph.initializer.remove(value)
        proto.graph.node.insert(0, helper.make_node("Constant", [], [value.name], value=value))
    assert [v.rule for v in check(proto)] == ["scale-value", "scale-value"]


def test_a_pool_between_a_pair_and_its_convolution_is_no_float_input() -> None:
    draft = Draft()
    draft.conv(draft.add("MaxPool", [draft.pair("x")], "p", kernel_shape=[2, 2]), "y")
    assert check(draft.done()) == ()


def test_onnx_runtime_allows_what_tensorrt_does_not() -> None:
    for draw in (zero_point, unsigned, float_skip, coded_bias):
        assert [v.rule for v in check(drawn(draw), "onnxruntime") if v.counts] == []
    kernels = [v for v in check(drawn(float_skip), "onnxruntime") if v.rule == "float-kernel"]
    assert kernels == []  # a Relu may stand between
    draft = Draft()
    draft.add("Sigmoid", [draft.conv(draft.pair("x"), "a")], "y")
    assert "Sigmoid reads it in float" in check(draft.done(), "onnxruntime")[0].message


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UsageError, match="tensorrt, onnxruntime, openvino"):
        check(drawn(clean), "tflite")


# Graphs of ONNX Runtime's own quantizer.


@pytest.fixture
def quantized(tmp_path: Path) -> Callable[..., onnx.ModelProto]:
    """A small convolutional network through onnxruntime.quantization.quantize_static."""

    def make(kind: str) -> onnx.ModelProto:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                rng = np.random.default_rng(0)
                self.rows = iter([{"x": rng.random((1, 4, 8, 8), np.float32)} for _ in range(2)])

            def get_next(self) -> Any:
                return next(self.rows, None)

        draft, rng = Draft(), np.random.default_rng(0)
        for name in ("w1", "w2"):
            draft.constant(name, rng.standard_normal((4, 4, 3, 3)).astype(np.float32))
            draft.constant(f"{name}.b", rng.standard_normal(4).astype(np.float32))
        draft.add("Conv", ["x", "w1", "w1.b"], "a", pads=[1] * 4)
        draft.add("Relu", ["a"], "r")
        draft.add("Conv", ["r", "w2", "w2.b"], "y", pads=[1] * 4)
        onnx.save(draft.done(), tmp_path / "float.onnx")
        code = QuantType.QInt8 if kind != "u8" else QuantType.QUInt8
        layout = QuantFormat.QOperator if kind == "operators" else QuantFormat.QDQ
        quantize_static(
            str(tmp_path / "float.onnx"),
            str(tmp_path / "q.onnx"),
            Reader(),
            quant_format=layout,
            activation_type=code,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"ActivationSymmetric": kind == "s8"},
        )
        return load(tmp_path / "q.onnx")

    return make


def test_its_symmetric_graphs_break_only_the_rule_on_biases(quantized) -> None:
    assert {v.rule for v in check(quantized("s8"), "tensorrt") if v.counts} == {"bias"}
    assert check(quantized("s8"), "onnxruntime") == ()


def test_its_unsigned_graphs_break_the_rules_on_codes_too(quantized) -> None:
    found = {v.rule for v in check(quantized("u8"), "tensorrt") if v.counts}
    assert {"bias", "code-type"} <= found
    assert [v for v in check(quantized("u8"), "onnxruntime") if v.counts] == []


def test_its_operator_graphs_compute_on_codes(quantized) -> None:
    found = check(quantized("operators"), "tensorrt")
    assert sum(v.rule == "integer-operator" for v in found) == 2


# The command.


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(draw: Callable[[Draft], None], **options: Any) -> tuple[int, str]:
        onnx.save(drawn(draw), tmp_path / "q.onnx")
        try:
            verify(tmp_path / "q.onnx", **options)
        except typer.Exit as end:
            return end.exit_code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    return call


def test_the_command_lists_and_fails(command) -> None:
    code, out = command(zero_point)
    assert code == 1
    assert "n.x.q" in out.replace("\n", "")
    assert "2 violations of the rules of tensorrt" in out.replace("\n", " ")


def test_the_command_passes_a_clean_graph_and_one_with_remarks(command) -> None:
    code, out = command(clean)
    assert (code, "no violations" in out) == (0, True)
    code, out = command(lowest)
    assert (code, "1 remarks" in out) == (0, True)


def test_the_command_speaks_json(command) -> None:
    code, out = command(coded_bias, as_json=True)
    data = json.loads(out)
    assert (code, data["target"]) == (1, "tensorrt")
    assert data["violations"][0]["rule"] == "bias"
    assert data["violations"][0]["severity"] == "error"


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("bad.onnx", "empty.onnx", "gone.onnx"):
        with pytest.raises(CheckpointError, match="not a readable ONNX graph"):
            load(tmp_path / name)
