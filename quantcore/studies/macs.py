"""Shapes of a float graph's tensors, and the multiplications that each of its layers costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx

from quantcore.errors import ModelError
from quantcore.ir.edits import copied, fixed_shapes
from quantcore.ir.model import WEIGHTED_OPS, FloatModel

Shape = tuple[int, ...]


def shapes_of(model: FloatModel) -> dict[str, Shape]:
    """The shape of every tensor for one image of the model's size.

    Raises:
        ModelError: ONNX's shape inference fails on the graph.
    """
    proto = copied(model.proto)
    # Shapes that were inferred for a dynamic batch would stand in the way of the fixed ones.
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    height, width = model.preprocessing.size
    for dim, value in zip(dims, (model.batch_size or 1, 3, height, width), strict=True):
        dim.dim_value = value
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except Exception as error:  # the library's own class derives from RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{model.name}: shapes cannot be inferred: {reason}") from None
    weights = {i.name: tuple(i.dims) for i in inferred.graph.initializer}
    return weights | fixed_shapes(inferred.graph)


def macs_of(model: FloatModel, shapes: Mapping[str, Shape] | None = None) -> dict[str, int]:
    """Multiply-accumulates of each layer for one image; 0 for layers without a weight.

    A convolution multiplies every element of its output with a filter of I/groups x kH x kW, a
    transposed one every element of its input with O/groups x kH x kW, a linear layer every element
    of its output with the length of the input: in each case the size of the weight times the
    number of places where it is applied.

    Args:
        model: The float model.
        shapes: `shapes_of(model)`, where it is at hand.

    Raises:
        ModelError: The shape of a layer is unknown.
    """
    known = shapes if shapes is not None else shapes_of(model)
    found = {}
    for layer in model.layers:
        if layer.op not in WEIGHTED_OPS:
            found[layer.name] = 0
            continue
        tensor = layer.inputs[0] if layer.op == "conv_transpose2d" else layer.outputs[0]
        if tensor not in known:
            raise ModelError(f"{model.name}: the shape of {tensor!r} ({layer.name}) is not known")
        shape = known[tensor]
        channels = 1 if layer.op != "linear" else len(shape) - 1
        places = math.prod(shape) // shape[channels]
        found[layer.name] = places * math.prod(known[layer.weights[0]])
    return found


def int8_share(macs: Mapping[str, int], quantized: Iterable[str]) -> float:
    """Share of the multiply-accumulates in the given layers, 0..1."""
    total = sum(macs.values())
    return sum(macs[name] for name in quantized) / total if total else 0.0
