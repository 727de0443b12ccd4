"""The INT8 audit: of the layers that a Q/DQ graph quantizes, which really run in INT8."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

from quantcore.contracts.engine import EngineLayer, EngineOptions, EnginePlugin, Surroundings
from quantcore.engines.surroundings import meant_for_int8
from quantcore.results.audit import Int8Audit, LayerAudit


def inspect(
    plugin: EnginePlugin, proto: onnx.ModelProto, options: EngineOptions | None = None
) -> Int8Audit:
    """Builds a graph with an engine and audits it.

    Raises:
        EngineError: The engine refuses the graph.
    """
    return audit(plugin, proto, plugin.inspect(proto, options or EngineOptions()))


def audit(plugin: EnginePlugin, proto: onnx.ModelProto, layers: Iterable[EngineLayer]) -> Int8Audit:
    """Holds what an engine runs against what the graph quantizes.

    Args:
        plugin: Tells its rules.
        proto: The Q/DQ graph.
        layers: What the engine made of it; none where that cannot be told.
    """
    known = list(layers)
    by_name = {layer.name: layer for layer in known}
    by_node = {node: layer for layer in reversed(known) for node in layer.nodes}
    found = []
    for where in meant_for_int8(proto):
        layer = by_name.get(where.node) or by_node.get(where.node)
        found.append(_audited(where, layer, plugin.explain))
    quantized = any(layer.precision == "int8" for layer in found)
    caveat = plugin.caveat() if quantized else None
    return Int8Audit(plugin.name, plugin.versions(), tuple(found), caveat)


def _audited(
    where: Surroundings, layer: EngineLayer | None, explain: Callable[[Surroundings], str]
) -> LayerAudit:
    if layer is None:
        return LayerAudit(node=where.node, op=where.op, runs_as=None, precision=None)
    wrong = layer.precision not in (None, "int8")
    why = explain(where) if wrong else None
    return LayerAudit(
        node=where.node, op=where.op, runs_as=layer.op, precision=layer.precision, why=why
    )
