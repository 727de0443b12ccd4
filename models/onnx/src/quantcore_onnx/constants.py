"""Folds everything in a graph that does not depend on the pixels, until nothing is left to fold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from quantcore.errors import CheckpointError
from quantcore.ir.edits import (
    add_constant,
    constants,
    drop_unread,
    fixed_shapes,
    leading_to,
    set_nodes,
)
from quantcore_onnx.cleanup import drop_identities
from quantcore_onnx.shapes import infer_shapes

Constants = dict[str, npt.NDArray[np.generic]]

#: A larger constant is left to run time; no shape arithmetic comes near.
MAX_BYTES = 64 << 20

#: What folding may add to a file in all: enough for the grids and weights of any detector.
MAX_TOTAL_BYTES = 512 << 20

#: Stands for a shape that is not known.
_ENDLESS = (1 << 62,)

#: Values up to this size take part in inferring how large a result is.
_SMALL = 1024

#: Not the same twice, or so slow in the reference implementation that it is left to the engine.
_NEVER = frozenset(
    (
        *("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"),
        *("Bernoulli", "Conv", "ConvTranspose", "DeformConv", "LSTM", "GRU", "RNN", "MaxPool"),
        *("AveragePool", "LpPool", "Resize", "GridSample", "RoiAlign", "NonMaxSuppression"),
        *("DFT", "STFT", "Einsum"),
    )
)

#: Their results have no shape before they are there, and never more elements than ranks times
#: what goes in.
_SHRINKING = frozenset(("NonZero", "Unique", "Compress"))


def fold_constants(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with constants, shapes and what is computed from them as initializers.

    Plain exports take several passes: the shape behind a Reshape is known only once its target is
    a constant, which may be computed from another such shape.

    Args:
        model: With a fixed input; may be changed.
        path: The file, for error messages.

    Raises:
        CheckpointError: The graph is not valid.
    """
    budget, changed = MAX_TOTAL_BYTES, True
    while changed:
        model = infer_shapes(model, path)
        drop_identities(model.graph)
        budget, changed = _fold_once(model, budget)
    return model


def drop_unused(graph: onnx.GraphProto) -> None:
    """Removes nodes that lead to no output, and initializers that nothing reads, in place."""
    set_nodes(graph, leading_to(graph.node, (output.name for output in graph.output)))
    drop_unread(graph)


def _fold_once(model: onnx.ModelProto, budget: int) -> tuple[int, bool]:
    """One pass in place; returns the bytes that may still be added, and whether it did anything."""
    graph = model.graph
    known: Constants = constants(graph)
    shapes = fixed_shapes(graph)
    produced: Constants = {}
    kept = []
    for node in graph.node:
        own = node.op_type == "Constant"  # in the file already
        values = _evaluate(node, known, shapes, model)
        size = 0 if own else sum(value.nbytes for value in (values or {}).values())
        if values is None or size > budget:
            kept.append(node)
            continue
        budget -= size
        known.update(values)
        produced.update(values)
    changed = len(kept) < len(graph.node)
    set_nodes(graph, kept)
    for name, value in produced.items():
        add_constant(graph, name, value)
    return budget, changed


def _evaluate(
    node: onnx.NodeProto,
    known: Constants,
    shapes: dict[str, tuple[int, ...]],
    model: onnx.ModelProto,
) -> Constants | None:
    """The outputs of a node, or None where they are not constant, or too large."""
    feeds = {name: known[name] for name in node.input if name in known}
    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        # Only the shape is read: one element, broadcast, stands for the tensor.
        feeds[node.input[0]] = np.broadcast_to(np.float32(0), shapes[node.input[0]])
    if node.op_type in _NEVER or any(name and name not in feeds for name in node.input):
        return None
    single = _alone(node, feeds, model)
    own = node.op_type == "Constant"
    if not own and not _bounded(single, node, feeds):
        return None
    try:
        results = ReferenceEvaluator(single).run(None, feeds)
    except Exception:  # an operator that the reference lacks stays in the graph
        return None
    names = [name for name in node.output if name]
    if not all(isinstance(result, np.ndarray | np.generic) for result in results):
        return None  # a sequence, say
    arrays = [np.asarray(result) for result in results]
    if not own and any(array.nbytes > MAX_BYTES for array in arrays):
        return None
    return dict(zip(names, arrays, strict=True))


def _alone(node: onnx.NodeProto, feeds: Constants, model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of one node."""
    inputs = [helper.make_tensor_value_info(n, _type_of(v), v.shape) for n, v in feeds.items()]
    outputs = [helper.make_value_info(n, onnx.TypeProto()) for n in node.output if n]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _bounded(single: onnx.ModelProto, node: onnx.NodeProto, feeds: Constants) -> bool:
    """Whether the results will be small enough, told before there are any."""
    if node.op_type in _SHRINKING:
        return 8 * sum(value.size * max(value.ndim, 1) for value in feeds.values()) <= MAX_BYTES
    told = onnx.ModelProto()
    told.CopyFrom(single)
    small = {n: v for n, v in feeds.items() if v.size <= _SMALL and v.dtype.kind in "iufb"}
    told.graph.initializer.extend(numpy_helper.from_array(np.array(v), n) for n, v in small.items())
    try:
        inferred = infer_shapes(told, Path(node.name))
    except CheckpointError:
        return False
    shapes = fixed_shapes(inferred.graph)
    return all(math.prod(shapes.get(n, _ENDLESS)) <= MAX_BYTES // 4 for n in node.output if n)


def _type_of(value: npt.NDArray[np.generic]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(value.dtype))
