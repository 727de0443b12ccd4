"""The INT8 audit: of the layers that a Q/DQ graph quantizes, which really run in INT8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx

from quantcore.engine import EngineLayer, EngineOptions, EnginePlugin
from quantcore.engines.surroundings import Surroundings, meant_for_int8


@dataclass(frozen=True)
class LayerAudit:
    """One layer that the graph quantizes.

    Attributes:
        node: ONNX node.
        op: Its operator.
        runs_as: The engine's layer that does its work, None where the engine names none.
        precision: What that runs in, None where it is not verified.
        why: Why that is not INT8; None where it is, or is not verified.
    """

    node: str
    op: str
    runs_as: str | None
    precision: str | None
    why: str | None = None


@dataclass(frozen=True)
class Int8Audit:
    """Every layer that a graph quantizes, as one engine runs it.

    Attributes:
        engine: Engine name.
        versions: Of its library.
        layers: In graph order.
        caveat: What the engine has to say about INT8 on this machine.
    """

    engine: str
    versions: Mapping[str, str]
    layers: tuple[LayerAudit, ...]
    caveat: str | None = None

    @property
    def int8(self) -> int:
        """How many run in INT8."""
        return sum(layer.precision == "int8" for layer in self.layers)

    @property
    def unverified(self) -> int:
        """How many the engine tells nothing about."""
        return sum(layer.precision is None for layer in self.layers)

    @property
    def verified(self) -> bool:
        """Whether the engine told of every one."""
        return self.unverified == 0

    def summary(self) -> str:
        """The audit in one line."""
        library = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        if not self.layers:
            return f"{library}: the graph quantizes no layer"
        if self.unverified == len(self.layers):
            return (
                f"{library}: built, precision not verified; {len(self.layers)} layers are meant to "
                "run in INT8"
            )
        line = f"{library}: {self.int8} of {len(self.layers)} quantized layers run in INT8"
        line = f"{line}, {self.unverified} not verified" if self.unverified else line
        return f"{line}; note: {self.caveat}" if self.caveat else line

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "engine": self.engine,
            "versions": dict(self.versions),
            "quantized_layers": len(self.layers),
            "int8": self.int8,
            "unverified": self.unverified,
            "verified": self.verified,
            "caveat": self.caveat,
            "layers": [asdict(layer) for layer in self.layers],
        }


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
        return LayerAudit(where.node, where.op, None, None)
    wrong = layer.precision not in (None, "int8")
    why = explain(where) if wrong else None
    return LayerAudit(where.node, where.op, layer.op, layer.precision, why)
