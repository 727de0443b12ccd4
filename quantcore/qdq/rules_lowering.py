"""Rules of a compiler that moves scales through the graph by itself, and so needs them movable."""

from __future__ import annotations

import numpy as np
import onnx

from quantcore.ir.edits import attributes
from quantcore.qdq.qdq_graph import QUANTIZE, QdqGraph
from quantcore.qdq.rules_layers import weights_of
from quantcore.qdq.rules_pairs import Found, code_type
from quantcore.qdq.topology import WEIGHTED

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_INTEGER = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
_JOINS = frozenset({"Add", "Sum", "Concat"})


def eight_bits(graph: QdqGraph) -> Found:
    """Codes of other than 8 bits; those of biases have 32."""
    for node in graph.pairs:
        kind = code_type(graph, node)
        if kind not in ("int8", "uint8", "int32"):
            yield graph.label(node), f"codes are {kind}, so what reads them runs in float"


def symmetric_weights(graph: QdqGraph) -> Found:
    """Weights that are no INT8, or have a zero point."""
    for node, dequantize in weights_of(graph):
        if graph.constant_behind(dequantize) is None:
            continue
        zero = graph.zero_point(dequantize)
        kind = code_type(graph, dequantize)
        if kind == "uint8":
            yield graph.label(dequantize), f"the weight of {graph.label(node)} is uint8, not int8"
        elif zero is not None and np.asarray(zero).astype(np.int64).any():
            yield graph.label(dequantize), f"the weight of {graph.label(node)} has a zero point"


def static_scales(graph: QdqGraph) -> Found:
    """Scales that depend on the image."""
    for node in graph.pairs:
        if not graph.is_computed_from_constants(node.input[1]):
            yield graph.label(node), f"the scale {node.input[1]!r} is computed for each image"


def per_tensor_inputs(graph: QdqGraph) -> Found:
    """Layers that mix channels of an activation with a scale for each of them."""
    for node in graph.nodes(*WEIGHTED):
        dequantize = graph.dequantize(node.input[0])
        if dequantize is None or not graph.per_axis(dequantize):
            continue
        scale = graph.scale(dequantize)
        channels = 0 if scale is None else scale.size
        if node.op_type != "Conv" or attributes(node).get("group", 1) != channels:
            yield graph.label(node), f"its input has {channels} scales, which it mixes"


def float_integers(graph: QdqGraph) -> Found:
    """Operators on codes that are taken apart into float."""
    for node in graph.nodes(*_INTEGER):
        yield graph.label(node), f"{node.op_type} is computed in float; write Q/DQ pairs instead"


def concat_pairs(graph: QdqGraph) -> Found:
    """Layers that read a Concat of quantized tensors which has no pair of its own."""
    for node in graph.nodes(*WEIGHTED):
        producer = graph.producers.get(node.input[0])
        if producer is None or producer.op_type != "Concat":
            continue
        if graph.is_quantized(node.input[0]):
            name = graph.label(producer)
            yield graph.label(node), f"it reads {name}, a Concat without a pair behind it"


def shared_results(graph: QdqGraph) -> Found:
    """Convolutions without bias whose result an add or a Concat reads beside something else."""
    if not _dynamic(graph.graph):
        return
    for node in graph.nodes(*_CONVOLUTIONS):
        if any(node.input[2:]) or not graph.is_quantized(node.input[0]):
            continue
        readers = graph.consumers.get(node.output[0], [])
        joins = [graph.label(reader) for reader in readers if reader.op_type in _JOINS]
        others = (reader for reader in readers if reader.op_type not in _JOINS)
        if joins and any(_quantizes(graph, reader) for reader in others):
            yield (
                graph.label(node),
                f"it has no bias, and {joins[0]} reads it beside a Q; with a dynamic batch its "
                "scale is lost there: give it a bias or fix the batch",
            )


def _quantizes(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    """Whether a node is a Q, or one stands right behind it."""
    behind = (reader for name in node.output for reader in graph.consumers.get(name, []))
    return node.op_type == QUANTIZE or any(reader.op_type == QUANTIZE for reader in behind)


def _dynamic(graph: onnx.GraphProto) -> bool:
    constants = {constant.name for constant in graph.initializer}
    shapes = (i.type.tensor_type.shape.dim for i in graph.input if i.name not in constants)
    return any(not dim.HasField("dim_value") for shape in shapes for dim in shape[:1])
