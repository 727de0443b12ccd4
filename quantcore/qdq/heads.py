"""Where a network computes boxes, float or Q/DQ: what FP16 is too coarse for."""

from __future__ import annotations

import onnx

from quantcore.ir.edits import constants
from quantcore.ir.projections import projections
from quantcore.qdq.topology import Topology

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Exp"})


def box_arithmetic(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the nodes that compute boxes and choose among them, float or Q/DQ.

    They stand behind all layers with weights and begin where a projection is, or where values are
    added to or multiplied with constants: a grid, anchors, strides. Pixels of a large image do not
    go into FP16's 11 bits. Sigmoids, reshapes and the like in front of that are not among them.
    """
    topology = Topology(graph)
    fixed = projections(graph, constants(graph))
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
