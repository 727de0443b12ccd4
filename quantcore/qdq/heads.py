"""What heads are made of: projections with given weights, and the arithmetic of boxes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.ir.edits import constants
from quantcore.qdq.topology import WEIGHTED, Topology

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Exp"})


def is_projection(node: onnx.NodeProto, weight: npt.NDArray[np.generic]) -> bool:
    """Whether a layer's weights were written down, not learned: it is part of a formula.

    The convolution of a distribution focal loss (DFL) is one: 1 x 1, with weights 0, 1, ..., n - 1
    it takes the mean of a distribution. So are the same as a product with a vector, and a matrix
    that turns centre and size into corners. Their weights are multiples of one half, of several
    magnitudes; 8 bits do not hold them, and they do next to no arithmetic. Weights of one magnitude
    are left alone: each scale holds them exactly.

    Args:
        node: A node with a constant weight.
        weight: That weight.
    """
    if node.op_type == "MatMul" and weight.ndim == 1:
        return True
    if node.op_type in ("Conv", "ConvTranspose") and weight.size != np.prod(weight.shape[:2]):
        return False
    doubled = 2 * weight.astype(np.float64)
    if not np.array_equal(doubled, np.rint(doubled)):
        return False
    magnitudes = np.unique(np.abs(doubled))
    return bool(np.count_nonzero(magnitudes) > 1)


def projections(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the nodes that `is_projection` holds for."""
    values = constants(graph)
    return frozenset(
        node.name
        for node in graph.node
        if node.op_type in WEIGHTED
        and len(node.input) > 1
        and node.input[1] in values
        and is_projection(node, values[node.input[1]])
    )


def box_arithmetic(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the nodes that compute boxes and choose among them, float or Q/DQ.

    They stand behind all layers with weights and begin where a projection is, or where values are
    added to or multiplied with constants: a grid, anchors, strides. Pixels of a large image do not
    go into FP16's 11 bits. Sigmoids, reshapes and the like in front of that are not among them.
    """
    topology = Topology(graph)
    fixed = projections(graph)
    layers = [n for n in graph.node if topology.has_weight(n) and n.name not in fixed]
    needed = topology.beyond(layers, forward=False)
    makers = {node.name for node in layers}
    tail = [n for n in graph.node if n.name not in makers and needed.isdisjoint(n.output)]
    starts = [n for n in tail if n.name in fixed or _with_constant(n, topology)]
    behind = topology.beyond(starts, forward=True)
    started = {node.name for node in starts}
    return frozenset(n.name for n in tail if n.name in started or not behind.isdisjoint(n.input))


def _with_constant(node: onnx.NodeProto, topology: Topology) -> bool:
    if node.op_type not in _ARITHMETIC:
        return False
    return node.op_type == "Exp" or not topology.constants.isdisjoint(node.input)
