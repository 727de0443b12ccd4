"""Rules on single Q and DQ nodes: their scales, zero points, types and axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from quantcore.ir.edits import attributes
from quantcore.qdq.qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph

#: A node and what is wrong with it.
Found = Iterator[tuple[str, str]]


def zero_points(graph: QdqGraph) -> Found:
    """Zero points other than 0, and such that are computed."""
    for node in graph.pairs:
        if len(node.input) < 3 or not node.input[2]:
            continue
        zero = graph.zero_point(node)
        if zero is None:
            yield graph.label(node), "the zero point is computed"
        elif np.asarray(zero).astype(np.float64).any():
            worst = np.asarray(zero).astype(np.int64).reshape(-1)
            shown = int(worst[np.abs(worst).argmax()])
            yield graph.label(node), f"the zero point is {shown}, not 0"


def code_type(graph: QdqGraph, node: onnx.NodeProto) -> str:
    """The type of the codes that a Q writes or a DQ reads."""
    zero = graph.zero_point(node)
    if zero is not None:
        return str(zero.dtype)
    if node.op_type == QUANTIZE:
        default = onnx.TensorProto.UINT8
        wanted = attributes(node).get("output_dtype", 0) or default
        return str(onnx.TensorProto.DataType.Name(wanted).lower())
    codes = graph.values.get(node.input[0])
    return str(codes.dtype) if codes is not None else "int8"  # its Q is looked at itself


def code_types(graph: QdqGraph) -> Found:
    """Codes that are no INT8; a Q without zero point writes UINT8."""
    for node in graph.pairs:
        kind = code_type(graph, node)
        # A 32-bit code is a bias, which has a rule of its own.
        if kind in ("uint8", "uint16", "int16"):
            missing = "" if graph.zero_point(node) is not None else " (no zero point given)"
            yield graph.label(node), f"codes are {kind}, not int8{missing}"


def scale_values(graph: QdqGraph) -> Found:
    """Scales that are not positive and finite."""
    for node in graph.pairs:
        scale = graph.scale(node)
        if scale is None:
            continue
        wide = np.asarray(scale).astype(np.float64).reshape(-1)
        bad = ~(np.isfinite(wide) & (wide > 0))
        if bad.any():
            where = f" in channel {int(bad.argmax())}" if wide.size > 1 else ""
            yield graph.label(node), f"the scale is {wide[bad][0]:g}{where}"


def scale_constants(graph: QdqGraph) -> Found:
    """Scales that are computed."""
    for node in graph.pairs:
        if graph.scale(node) is None:
            yield graph.label(node), f"the scale {node.input[1]!r} is not constant"


def scale_types(graph: QdqGraph) -> Found:
    """Scales in a type that the operator set does not have for them."""
    for node in graph.pairs:
        scale = graph.scale(node)
        if scale is None:
            continue
        kind = str(scale.dtype)
        if kind in ("float16", "bfloat16") and graph.opset < 19:
            yield graph.label(node), f"a {kind} scale needs opset 19, the graph has {graph.opset}"
        elif kind not in ("float32", "float16", "bfloat16"):
            yield graph.label(node), f"the scale is {kind}"


def operator_sets(graph: QdqGraph) -> Found:
    """Q and DQ nodes that the graph's operator set does not have."""
    for node in graph.pairs:
        if node.domain not in ("", "ai.onnx"):
            yield graph.label(node), f"{node.op_type} of domain {node.domain!r}, not of ONNX"
        elif graph.opset < 10:
            yield graph.label(node), f"{node.op_type} needs opset 10, the graph has {graph.opset}"
        elif graph.per_axis(node) and graph.opset < 13:
            yield graph.label(node), f"a scale per axis needs opset 13, the graph has {graph.opset}"


def per_channel_activations(graph: QdqGraph) -> Found:
    """Activations with a scale for each channel."""
    for node in graph.pairs:
        if graph.per_axis(node) and graph.constant_behind(node) is None:
            yield graph.label(node), f"the activation {node.input[0]!r} is quantized per channel"


def dangling(graph: QdqGraph) -> Found:
    """Codes that something else than a DQ reads, or that nothing does."""
    for node in graph.nodes(QUANTIZE):
        readers = graph.consumers.get(node.output[0], [])
        others = [r for r in readers if r.op_type != DEQUANTIZE]
        if others:
            names = ", ".join(f"{graph.label(r)} ({r.op_type})" for r in others)
            yield graph.label(node), f"its codes are read by {names}, not by a DequantizeLinear"
        elif not readers:
            yield graph.label(node), "no DequantizeLinear reads its codes"


def duplicates(graph: QdqGraph) -> Found:
    """Tensors with more than one pair."""
    readers: dict[str, list[str]] = {}
    for node in graph.nodes(QUANTIZE):
        readers.setdefault(node.input[0], []).append(graph.label(node))
    for tensor, names in readers.items():
        if len(names) > 1:
            yield names[1], f"tensor {tensor!r} has {len(names)} pairs: {', '.join(names)}"


def lowest_codes(graph: QdqGraph) -> Found:
    """Weights that use -128, the code without a positive counterpart."""
    for node in graph.nodes(DEQUANTIZE):
        codes = graph.values.get(node.input[0])
        if codes is not None and codes.dtype == np.int8 and bool((codes == -128).any()):
            count = int((codes == -128).sum())
            yield graph.label(node), f"{count} weight codes are -128; [-127, 127] is symmetric"
