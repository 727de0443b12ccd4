"""Draws the decoding into an ONNX graph, so that a deployed engine returns boxes or classes."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from quantcore.errors import ModelError
from quantcore.evaluation.decoding.pen import PREFIX
from quantcore.ir.decoding import Decoding
from quantcore.ir.edits import copied, opset_of


def append_decode(
    proto: onnx.ModelProto, decoding: Decoding, size: tuple[int, int]
) -> onnx.ModelProto:
    """Copies a graph and decodes its heads inside it, as `Decoding.decode` does.

    The nodes start at the head tensors, so float and Q/DQ graphs are treated alike; the batch
    stays dynamic where it was.

    Args:
        proto: A graph that ends in the raw heads.
        decoding: The model's.
        size: (height, width) of the network input in pixels.

    Returns:
        A graph with one output `decoding.output`, for which `decoding.drawn` is left.

    Raises:
        ModelError: The outputs do not fit the decoding, or the graph's opset is below 13.
    """
    drawn = copied(proto)
    heads = [output.name for output in drawn.graph.output]
    if heads == [decoding.output] and decoding.drawn == decoding:
        return drawn
    _check(drawn, decoding)
    decoding.draw(drawn.graph, heads, size)
    batch = proto.graph.output[0].type.tensor_type.shape.dim
    dynamic = not batch or not batch[0].HasField("dim_value")
    first = "batch" if dynamic else batch[0].dim_value
    del drawn.graph.output[:]
    drawn.graph.output.append(
        helper.make_tensor_value_info(
            decoding.output, TensorProto.FLOAT, [first, *[None] * (decoding.rank - 1)]
        )
    )
    return drawn


def _check(proto: onnx.ModelProto, decoding: Decoding) -> None:
    opset = opset_of(proto)
    if opset < 13:
        raise ModelError(f"decoding in the graph needs opset 13 or later, the graph has {opset}")
    heads = [output.name for output in proto.graph.output]
    if len(heads) != decoding.heads:
        have = ", ".join(heads)
        raise ModelError(f"decoding: needs {decoding.heads} outputs, the graph has {have}")
    taken = {name for node in proto.graph.node for name in (node.name, *node.output)}
    if decoding.output in taken or any(name.startswith(PREFIX) for name in taken):
        raise ModelError(
            f"the graph already holds {decoding.output!r} or {PREFIX} nodes: draw them once"
        )
