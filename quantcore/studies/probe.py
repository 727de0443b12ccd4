"""Layers float and quantized side by side: the error that each makes by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from quantcore.ir.edits import copied, nodes_by_name, set_nodes
from quantcore.ir.model import FloatModel, LayerInfo
from quantcore.studies.macs import Shape
from quantcore.studies.prefix import Suffix, extract

_SIGNAL, _NOISE = "probe.signal", "probe.noise"

#: Before every name of a graph that stands beside another.
_OTHER = "quantized::"


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
    float_nodes = nodes_by_name(model.proto.graph)
    added = [node for node in alone.graph.node if node.name not in float_nodes]
    quantized = nodes_by_name(alone.graph)[layer.name]
    reference = copied(float_nodes[layer.name])
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


def layers_probe(
    model: FloatModel, quantized: onnx.ModelProto, layers: Sequence[LayerInfo]
) -> onnx.ModelProto:
    """The float graph with every quantized layer beside its float self; one run measures all.

    Each layer starts from the float graph's tensors, so its error is its own.

    Args:
        model: The float model.
        quantized: Its Q/DQ graph.
        layers: Layers of it; one that is not quantized has no error.

    Returns:
        A graph from images to `<layer>.signal` and `<layer>.noise`, sums of squares of the layer's
        float outputs and of their errors.
    """
    proto = copied(model.proto)
    float_nodes = nodes_by_name(model.proto.graph)
    measured = {layer.name for layer in layers}
    nodes: list[onnx.NodeProto] = []
    outputs: list[str] = []
    for node in quantized.graph.node:
        nodes.append(float_nodes.get(node.name, node))
        if node.name in measured:
            ends = signal_name(node.name), noise_name(node.name)
            nodes.extend(_beside(node, *ends))
            outputs.extend(ends)
    have = {i.name for i in proto.graph.initializer}
    proto.graph.initializer.extend(i for i in quantized.graph.initializer if i.name not in have)
    set_nodes(proto.graph, nodes)
    del proto.graph.output[:]
    infos = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in outputs)
    proto.graph.output.extend(infos)
    return proto


def whole_probe(
    model: FloatModel, quantized: onnx.ModelProto, layers: Sequence[LayerInfo]
) -> onnx.ModelProto:
    """The float graph and the whole Q/DQ graph on the same images, held together at every layer.

    Each layer starts from what the one before made, so its error is all that has gathered there.

    Args:
        model: The float model.
        quantized: Its Q/DQ graph.
        layers: Layers to measure.

    Returns:
        As `layers_probe`.
    """
    proto, other = copied(model.proto), copied(quantized)
    images = {entry.name for entry in proto.graph.input}

    def renamed(name: str) -> str:
        return name if not name or name in images else f"{_OTHER}{name}"

    for node in other.graph.node:
        node.name = renamed(node.name)
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    for constant in other.graph.initializer:
        constant.name = renamed(constant.name)
    proto.graph.initializer.extend(other.graph.initializer)
    nodes = [*proto.graph.node, *other.graph.node]
    ends: list[str] = []
    for layer in layers:
        output, signal, noise = layer.outputs[0], signal_name(layer.name), noise_name(layer.name)
        error = f"{output}.error"
        nodes += [
            helper.make_node("Sub", [renamed(output), output], [error], f"{layer.name}.error"),
            helper.make_node("ReduceSumSquare", [output], [signal], signal, keepdims=0),
            helper.make_node("ReduceSumSquare", [error], [noise], noise, keepdims=0),
        ]
        ends += [signal, noise]
    set_nodes(proto.graph, nodes)
    del proto.graph.output[:]
    infos = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in ends)
    proto.graph.output.extend(infos)
    return proto


def signal_name(layer: str) -> str:
    """Output of `layers_probe`: sum of squares of the layer's float output."""
    return f"{layer}.signal"


def noise_name(layer: str) -> str:
    """Output of `layers_probe`: sum of squares of the layer's error."""
    return f"{layer}.noise"


def _beside(node: onnx.NodeProto, signal: str, noise: str) -> list[onnx.NodeProto]:
    """The quantized layer under another name, and what measures its first output."""
    copy = copied(node)
    copy.name = f"{node.name}.int8"
    copy.output[:] = [f"{name}.int8" for name in node.output]
    error = f"{node.output[0]}.error"
    return [
        copy,
        helper.make_node("Sub", [copy.output[0], node.output[0]], [error], f"{node.name}.error"),
        helper.make_node("ReduceSumSquare", [node.output[0]], [signal], signal, keepdims=0),
        helper.make_node("ReduceSumSquare", [error], [noise], noise, keepdims=0),
    ]


def _sum_of_squares(tensor: str, output: str) -> onnx.NodeProto:
    return helper.make_node("ReduceSumSquare", [tensor], [output], output, keepdims=0)
