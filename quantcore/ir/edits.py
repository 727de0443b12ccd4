"""Edits of ONNX graphs: the one place where tensors are exposed, named and followed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper


def exposed(proto: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """The graph with more of its tensors, other than its input, as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {end.name for end in (*copy.graph.input, *copy.graph.output)}
    for name in dict.fromkeys(tensors):
        if name not in known:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy


def nudged(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every activation scale moved up by one unit in the last place."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    scales = {node.input[1] for node in copy.graph.node if node.op_type == "QuantizeLinear"}
    for constant in copy.graph.initializer:
        if constant.name in scales:
            moved = np.nextafter(numpy_helper.to_array(constant), np.float32(np.inf))
            constant.CopyFrom(numpy_helper.from_array(np.asarray(moved), constant.name))
    return copy
