"""What a target says against a Q/DQ graph, whichever tool wrote it: the rules, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from quantcore.errors import CheckpointError, UsageError
from quantcore.qdq import rules_layers, rules_lowering, rules_pairs
from quantcore.qdq.qdq_graph import QdqGraph
from quantcore.qdq.rules_pairs import Found

#: error: the source forbids it; warning: it runs, but in float or slower; info: good to know.
SEVERITIES = ("error", "warning", "info")

_TRT = "TensorRT documentation, Explicit Quantization"
_PLACEMENT = f"{_TRT}, Q/DQ Layer-Placement Recommendations"
_ONNX = "ONNX operators, QuantizeLinear and DequantizeLinear"
_QUANTIZE = "TensorRT operators documentation, Quantize"
_ORT = "ONNX Runtime documentation, Quantize ONNX models"
_LPT = "OpenVINO documentation, Low Precision Transformations"


@dataclass(frozen=True)
class Rule:
    """One thing that a target asks of a Q/DQ graph.

    Attributes:
        id: Its name.
        text: What it asks.
        source: Where that is written down.
        severity: One of `SEVERITIES`.
        check: Finds the nodes that break it.
    """

    id: str
    text: str
    source: str
    severity: str
    check: Callable[[QdqGraph], Found]


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A node that breaks a rule.

    Attributes:
        rule: The rule's id.
        severity: The rule's.
        node: The node's name.
        message: What is wrong with it.
        source: Where the rule is written down.
    """

    rule: str
    severity: str
    node: str
    message: str
    source: str

    @property
    def counts(self) -> bool:
        """Whether a graph with it has failed; a mere info is not held against it."""
        return self.severity != "info"


RULES: Mapping[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule(
            "valid",
            "the graph is valid ONNX",
            "ONNX IR specification",
            "error",
            rules_layers.validity,
        ),
        Rule(
            "opset",
            "Q and DQ exist from opset 10 on, with a scale per axis from 13 on",
            _ONNX,
            "error",
            rules_pairs.operator_sets,
        ),
        Rule(
            "scale-type",
            "scales are FP32, or FP16 from opset 19 on",
            _ONNX,
            "error",
            rules_pairs.scale_types,
        ),
        Rule(
            "scale-value",
            "scales are positive and finite",
            "TensorRT API, IQuantizeLayer: strictly positive scales",
            "error",
            rules_pairs.scale_values,
        ),
        Rule(
            "scale-constant",
            "scales are constants",
            f"{_QUANTIZE}: a build-time constant",
            "error",
            rules_pairs.scale_constants,
        ),
        Rule(
            "zero-point",
            "zero points are 0: quantization is symmetric",
            f"{_QUANTIZE}: zero-valued coefficients",
            "error",
            rules_pairs.zero_points,
        ),
        Rule(
            "code-type",
            "codes are INT8, the type of its INT8 kernels; a Q without zero point writes UINT8",
            f"{_QUANTIZE}: INT8, FP8 and INT4",
            "warning",
            rules_pairs.code_types,
        ),
        Rule(
            "activation-per-channel",
            "activations have one scale",
            f"{_PLACEMENT} (per-tensor activations, per-channel weights)",
            "error",
            rules_pairs.per_channel_activations,
        ),
        Rule(
            "dangling",
            "every Q is read by a DQ, and by nothing else",
            f"{_TRT}, TensorRT Processing of Q/DQ Networks",
            "warning",
            rules_pairs.dangling,
        ),
        Rule(
            "duplicate",
            "a tensor has one pair",
            f"{_TRT}, TensorRT Processing of Q/DQ Networks",
            "warning",
            rules_pairs.duplicates,
        ),
        Rule(
            "weight-lowest",
            "weights use the codes [-127, 127]",
            "Krishnamoorthi 2018, arXiv:1806.08342, section 2.2",
            "info",
            rules_pairs.lowest_codes,
        ),
        Rule(
            "weight-axis",
            "weight scales lie along the output channels: Conv 0, ConvTranspose 1, Gemm by transB",
            f"{_TRT}, Quantized Weights",
            "error",
            rules_layers.weight_axes,
        ),
        Rule(
            "weight-constant",
            "quantized weights are constants",
            f"{_TRT}, Quantized Weights",
            "warning",
            rules_layers.weight_constants,
        ),
        Rule(
            "bias",
            "biases stay float",
            "TensorRT API, IDequantizeLayer: input of type INT8, UINT8, INT4, FP8 or FP4",
            "error",
            rules_layers.biases,
        ),
        Rule(
            "integer-operator",
            "no operator computes on codes",
            "TensorRT ONNX parser, operator support matrix",
            "error",
            rules_layers.integer_operators,
        ),
        Rule(
            "half-quantized",
            "all inputs of a weighted operation and of a product are quantized, or none",
            _PLACEMENT,
            "warning",
            rules_layers.half_quantized,
        ),
        Rule(
            "residual",
            "the residual input of an add behind a quantized convolution is quantized",
            f"{_PLACEMENT} (residual input in skip connections)",
            "warning",
            rules_layers.residuals,
        ),
        Rule(
            "equal-scales",
            "Concat, MaxPool and nearest Resize stand between equal scales",
            "NVIDIA yolo_deepstream, yolov7_qat/quantization/rules.py (find_quantizer_pairs)",
            "warning",
            rules_layers.equal_scales,
        ),
        Rule(
            "float-kernel",
            "a Conv becomes an integer kernel where input, weight, bias and output are quantized",
            _ORT,
            "info",
            rules_layers.float_kernels,
        ),
        Rule(
            "eight-bits",
            "codes are INT8 or UINT8, of biases INT32",
            f"{_LPT}, Step 2, MarkupPrecisions",
            "warning",
            rules_lowering.eight_bits,
        ),
        Rule(
            "symmetric-weight",
            "weights are INT8 with zero points of 0; activations may have others",
            f"{_LPT}, Step 2, MarkupPrecisions; float kernels seen in 2026.4.1",
            "warning",
            rules_lowering.symmetric_weights,
        ),
        Rule(
            "static-scale",
            "scales do not depend on the image",
            f"{_LPT}, FakeQuantize: ranges are constants",
            "warning",
            rules_lowering.static_scales,
        ),
        Rule(
            "per-tensor-input",
            "only a depthwise convolution reads an activation with a scale for each channel",
            f"{_LPT}, Step 2, MarkupPerTensorQuantization",
            "warning",
            rules_lowering.per_tensor_inputs,
        ),
        Rule(
            "float-integer",
            "no operator computes on codes that is taken apart into float",
            f"{_LPT}: quantization is expressed through FakeQuantize; seen in 2026.4.1",
            "warning",
            rules_lowering.float_integers,
        ),
        Rule(
            "concat-pair",
            "a Concat of quantized tensors that a layer reads has a pair of its own",
            f"{_LPT}, Step 2, AlignQuantizationIntervals; float kernels, and wrong results on "
            "YOLOv5n, seen in 2026.4.1",
            "warning",
            rules_lowering.concat_pairs,
        ),
        Rule(
            "shared-result",
            "with a dynamic batch, what an add reads of a convolution without bias is its alone",
            "wrong results seen in OpenVINO 2026.4.1",
            "error",
            rules_lowering.shared_results,
        ),
    )
}

_EVERYWHERE = (
    *("valid", "opset", "scale-type", "scale-value", "dangling", "duplicate", "weight-axis"),
    "half-quantized",
)

#: Which rules a target has.
TARGETS: Mapping[str, tuple[str, ...]] = {
    "tensorrt": (
        *_EVERYWHERE,
        *("scale-constant", "zero-point", "code-type", "activation-per-channel", "weight-lowest"),
        *("weight-constant", "bias", "integer-operator", "residual", "equal-scales"),
    ),
    "onnxruntime": (*_EVERYWHERE, "float-kernel"),
    "openvino": (
        *_EVERYWHERE,
        *("eight-bits", "symmetric-weight", "static-scale", "per-tensor-input", "float-integer"),
        *("concat-pair", "shared-result"),
    ),
}


def check(proto: onnx.ModelProto, target: str = "tensorrt") -> tuple[Violation, ...]:
    """Everything that a target says against a graph, rule by rule, nodes in the graph's order.

    Args:
        proto: A Q/DQ graph of any tool.
        target: One of `TARGETS`.

    Raises:
        UsageError: The target is unknown.
    """
    if target not in TARGETS:
        raise UsageError(f"--target must be {', '.join(TARGETS)}, not {target!r}")
    graph = QdqGraph(proto)
    chosen = TARGETS[target]
    return tuple(
        Violation(
            rule=rule.id,
            severity=rule.severity,
            node=node,
            message=message,
            source=rule.source,
        )
        for rule in RULES.values()
        if rule.id in chosen
        for node, message in rule.check(graph)
    )


def load(path: Path) -> onnx.ModelProto:
    """Reads a graph without judging it.

    Raises:
        CheckpointError: Not there, or not ONNX.
    """
    try:
        proto = onnx.load(path)
    except Exception as error:  # protobuf and the file system each have their own
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not a readable ONNX graph: {reason}") from None
    if not proto.graph.node:
        raise CheckpointError(f"{path}: not a readable ONNX graph: it has no nodes")
    return proto
