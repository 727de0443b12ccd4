"""A graph of one layer, float and quantized side by side: the error that it makes by itself."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from quantcore.analysis.macs import Shape
from quantcore.analysis.prefix import Suffix, extract
from quantcore.ir import FloatModel, LayerInfo

_SIGNAL, _NOISE = "probe.signal", "probe.noise"


def layer_probe(
    model: FloatModel, alone: onnx.ModelProto, layer: LayerInfo, shapes: Mapping[str, Shape]
) -> Suffix:
    """A graph from a layer's float inputs to sums of squares of its output and of its error.

    Args:
        model: The float model.
        alone: Its Q/DQ graph in which this layer alone is quantized.
        layer: The layer.
        shapes: Of the float graph's tensors.

    Returns:
        A graph with two scalar outputs, signal and noise.
    """
    float_nodes = {node.name: node for node in model.proto.graph.node}
    added = [node for node in alone.graph.node if node.name not in float_nodes]
    quantized = next(node for node in alone.graph.node if node.name == layer.name)
    reference = onnx.NodeProto()
    reference.CopyFrom(float_nodes[layer.name])
    reference.name = f"{layer.name}.float"
    reference.output[0] = f"{layer.outputs[0]}.float"
    error = f"{layer.outputs[0]}.error"
    nodes = [
        *added,
        quantized,
        reference,
        helper.make_node("Sub", [layer.outputs[0], reference.output[0]], [error], "probe.error"),
        _sum_of_squares(reference.output[0], _SIGNAL),
        _sum_of_squares(error, _NOISE),
    ]
    return extract(alone, nodes, (_SIGNAL, _NOISE), shapes, model.proto.graph.initializer)


def _sum_of_squares(tensor: str, output: str) -> onnx.NodeProto:
    return helper.make_node("ReduceSumSquare", [tensor], [output], output, keepdims=0)
