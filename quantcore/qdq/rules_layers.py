"""Rules on what stands between Q and DQ nodes: layers, residual adds, concats, whole graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from quantcore.errors import CheckpointError
from quantcore.ir.edits import attributes
from quantcore.qdq.qdq_graph import QUANTIZE, QdqGraph
from quantcore.qdq.rules_pairs import Found
from quantcore.qdq.topology import moves_values
from quantcore.runtime.guarded import guarded

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_INTEGER = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
    | {"QGemm", "QAttention", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FusedMatMulInteger"}
)


def validity(graph: QdqGraph) -> Found:
    """What the ONNX checker says."""
    content = graph.proto.SerializeToString()
    try:
        guarded(_inferred_and_checked, content, path=Path("graph"), size=len(content))
    except CheckpointError as error:
        yield "graph", str(error).removeprefix("graph: ")


def _inferred_and_checked(content: bytes) -> bool:
    # The checker wants shapes of outputs, which many exporters leave to be inferred.
    inferred = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(content))
    onnx.checker.check_model(inferred)
    return True


def integer_operators(graph: QdqGraph) -> Found:
    """Operators that compute on codes themselves."""
    for node in graph.graph.node:
        if node.op_type in _INTEGER or node.op_type.startswith("QLinear"):
            yield graph.label(node), f"{node.op_type} computes on codes; write Q/DQ pairs instead"


def weight_axes(graph: QdqGraph) -> Found:
    """Weights whose scales lie along another axis than their output channels."""
    for node, dequantize in weights_of(graph):
        codes = graph.constant_behind(dequantize)
        if codes is None or not graph.per_axis(dequantize):
            continue
        wanted = _output_axis(node, codes.ndim)
        axis = graph.axis(dequantize, codes.ndim)
        if axis != wanted:
            yield (
                graph.label(dequantize),
                f"the weight of {node.op_type} {graph.label(node)} is scaled along axis {axis}, "
                f"its output channels are axis {wanted}",
            )
            continue
        scale = graph.scale(dequantize)
        if scale is not None and scale.size != codes.shape[axis]:
            yield (
                graph.label(dequantize),
                f"{scale.size} scales for {codes.shape[axis]} channels",
            )


def weight_constants(graph: QdqGraph) -> Found:
    """Weights that are dequantized from something computed."""
    for node, dequantize in weights_of(graph):
        # The other two multiply activations as well as weights.
        if node.op_type in ("Conv", "ConvTranspose") and graph.constant_behind(dequantize) is None:
            yield graph.label(dequantize), f"the weight of {graph.label(node)} is not constant"


def biases(graph: QdqGraph) -> Found:
    """Biases that are dequantized."""
    for node in graph.nodes(*_LAYERS):
        dequantize = graph.dequantize(node.input[2]) if len(node.input) > 2 else None
        if dequantize is not None:
            codes = graph.constant_behind(dequantize)
            kind = codes.dtype if codes is not None else "unknown"
            yield graph.label(node), f"its bias is quantized ({kind}); it has to stay float"


def half_quantized(graph: QdqGraph) -> Found:
    """Layers with a quantized weight and a float input, or the reverse; products alike."""
    for node in graph.nodes(*_LAYERS, "MatMul"):
        if not (graph.has_weight(node) or node.input[1] in graph.values):
            yield from _half_product(graph, node)
            continue
        data = graph.is_quantized(node.input[0])
        weight = graph.dequantize(node.input[1]) is not None
        # A DQ that the layer reads directly was put there for it.
        direct = graph.dequantize(node.input[0]) is not None
        if weight and not data:
            yield graph.label(node), "the weight is quantized, the input is float"
        elif direct and not weight and node.input[1] in graph.values:
            yield graph.label(node), "the input is quantized, the weight is float"


def _half_product(graph: QdqGraph, node: onnx.NodeProto) -> Found:
    """Says so where one of two activations that a node multiplies is quantized."""
    floats = [name for name in node.input[:2] if not graph.is_quantized(name)]
    direct = any(graph.dequantize(name) is not None for name in node.input[:2])
    if direct and len(floats) == 1:
        yield graph.label(node), f"one factor is quantized, {floats[0]!r} is float"


def residuals(graph: QdqGraph) -> Found:
    """Adds behind a quantized convolution whose other input is float."""
    for node in graph.nodes("Add"):
        if any(name in graph.values for name in node.input):
            continue
        branch = graph.fused_branch(node)
        layer = graph.fused_layer(branch) if branch else None
        if layer is None or not graph.is_quantized(layer.input[0]):
            continue
        for name in node.input:
            if name != branch and not graph.is_quantized(name):
                yield (
                    graph.label(node),
                    f"the residual input {name!r} is float, {graph.label(layer)} is quantized",
                )


def equal_scales(graph: QdqGraph) -> Found:
    """Concats, pools and nearest resizes between different scales."""
    for node in graph.nodes("Concat", "MaxPool", "Resize"):
        if not moves_values(node):
            continue
        scales = dict(_scales_around(graph, node))
        if len(set(scales.values())) > 1:
            shown = ", ".join(f"{name} {value:g}" for name, value in scales.items())
            yield graph.label(node), f"{node.op_type} between unequal scales: {shown}"
            continue
        computed = [name for name in node.input if name and name not in graph.values]
        floats = [name for name in computed if not graph.is_quantized(name)]
        if floats and len(floats) < len(computed):
            yield graph.label(node), f"some inputs are quantized, {', '.join(floats)} are float"


def float_kernels(graph: QdqGraph) -> Found:
    """Quantized convolutions that ONNX Runtime computes in float."""
    for node in graph.nodes("Conv"):
        if not graph.is_quantized(node.input[0]) or graph.dequantize(node.input[1]) is None:
            continue
        readers = graph.consumers.get(node.output[0], [])
        if len(node.input) > 2 and graph.dequantize(node.input[2]) is None:
            yield graph.label(node), "the bias is float, so it does not become QLinearConv"
        elif any(reader.op_type not in (QUANTIZE, "Relu", "Clip") for reader in readers):
            ops = ", ".join(sorted({reader.op_type for reader in readers}))
            yield graph.label(node), f"{ops} reads it in float, so it does not become QLinearConv"


def weights_of(graph: QdqGraph) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Layers and the DQ nodes of their weights."""
    for node in graph.nodes(*_LAYERS, "MatMul"):
        dequantize = graph.dequantize(node.input[1]) if len(node.input) > 1 else None
        if dequantize is not None:
            yield node, dequantize


def _output_axis(node: onnx.NodeProto, rank: int) -> int:
    if node.op_type in ("Conv", "ConvTranspose"):
        return 0 if node.op_type == "Conv" else 1
    transposed = node.op_type == "Gemm" and attributes(node).get("transB", 0)
    return 0 if transposed else rank - 1


def _scales_around(graph: QdqGraph, node: onnx.NodeProto) -> Iterator[tuple[str, float]]:
    """Scales of the pairs on a node's inputs and output, by tensor.

    An input that the node reads in float counts with the pair that others read it through: an
    engine moves the pair behind the node before it, onto the same tensor.
    """
    behind = [q for o in node.output for q in graph.consumers.get(o, []) if q.op_type == QUANTIZE]
    for pair in behind:
        yield from _scale_of(graph, pair, pair.input[0])
    for name in node.input:
        dequantize = graph.dequantize(name)
        if dequantize is not None:
            yield from _scale_of(graph, dequantize, name)
        elif behind:
            for reader in graph.consumers.get(name, []):
                if reader.op_type == QUANTIZE:
                    yield from _scale_of(graph, reader, name)


def _scale_of(graph: QdqGraph, node: onnx.NodeProto, tensor: str) -> Iterator[tuple[str, float]]:
    scale = graph.scale(node)
    if scale is not None and np.asarray(scale).size == 1:
        yield tensor, float(np.asarray(scale).reshape(-1)[0])
