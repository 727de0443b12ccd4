"""Folds everything in a graph that does not depend on the pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from quantcore.ir.edits import (
    add_constant,
    constants,
    drop_unread,
    fixed_shapes,
    leading_to,
    set_nodes,
)

Constants = dict[str, npt.NDArray[np.generic]]

#: Larger results are left to run time; no shape arithmetic comes near.
_MAX_ELEMENTS = 1 << 24

_NEVER = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial")


def fold_constants(model: onnx.ModelProto) -> None:
    """Turns constant nodes, shapes and what is computed from them into initializers, in place.

    Args:
        model: With all tensor shapes inferred; a Shape node is folded where its input is fixed.
    """
    graph = model.graph
    known: Constants = constants(graph)
    shapes = fixed_shapes(graph)
    produced: Constants = {}
    kept = []
    for node in graph.node:
        values = _evaluate(node, known, shapes, model)
        if values is None:
            kept.append(node)
        else:
            known.update(values)
            produced.update(values)
    set_nodes(graph, kept)
    for name, value in produced.items():
        add_constant(graph, name, value)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes nodes that lead to no output, and initializers that nothing reads, in place."""
    set_nodes(graph, leading_to(graph.node, (output.name for output in graph.output)))
    drop_unread(graph)


def _evaluate(
    node: onnx.NodeProto,
    known: Constants,
    shapes: dict[str, tuple[int, ...]],
    model: onnx.ModelProto,
) -> Constants | None:
    """The outputs of a node, or None where they are not constant."""
    feeds = {name: known[name] for name in node.input if name in known}
    if node.op_type == "Shape" and node.input[0] not in feeds and node.input[0] in shapes:
        # Only the shape is read: one element, broadcast, stands for the tensor.
        shape = shapes[node.input[0]]
        feeds[node.input[0]] = np.broadcast_to(np.float32(0), shape)
    if node.op_type in _NEVER or any(name and name not in feeds for name in node.input):
        return None
    inputs = [helper.make_tensor_value_info(n, _type_of(v), v.shape) for n, v in feeds.items()]
    outputs = [helper.make_value_info(n, onnx.TypeProto()) for n in node.output if n]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    single = helper.make_model(graph, opset_imports=model.opset_import)
    results = ReferenceEvaluator(single).run(None, feeds)
    if any(np.size(r) > _MAX_ELEMENTS for r in results):
        return None
    return {o.name: np.asarray(r) for o, r in zip(outputs, results, strict=True)}


def _type_of(value: npt.NDArray[np.generic]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(value.dtype))
