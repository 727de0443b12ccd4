"""Layers whose weights were written down, not learned: parts of a formula, such as DFL's mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


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


def projections(
    graph: onnx.GraphProto, values: Mapping[str, npt.NDArray[np.generic]]
) -> frozenset[str]:
    """Names of the nodes that `is_projection` holds for, given the values of the constants."""
    return frozenset(
        node.name
        for node in graph.node
        if node.op_type in _OPERATORS
        and len(node.input) > 1
        and node.input[1] in values
        and is_projection(node, values[node.input[1]])
    )
