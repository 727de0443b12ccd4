"""Brings a graph in half or double precision to float32, which is what frameworks quantize."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

#: Plain exports have double where a Python number met a tensor.
_OTHERS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def to_float32(model: onnx.ModelProto) -> None:
    """Makes every tensor in FP16, BF16 or FP64 one in FP32, in place, as near as that comes."""
    graph = model.graph
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type in _OTHERS:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _convert(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _convert(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i in _OTHERS:
                attribute.i = TensorProto.FLOAT


def _convert(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _OTHERS:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
