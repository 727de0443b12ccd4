"""What audits found: how a graph agrees with a simulation, and what an engine runs in INT8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantcore.runtime.plain import plain


@dataclass(frozen=True, kw_only=True)
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
        found = {
            "engine": self.engine,
            "versions": self.versions,
            "quantized_layers": len(self.layers),
            "int8": self.int8,
            "unverified": self.unverified,
            "verified": self.verified,
            "caveat": self.caveat,
            "layers": self.layers,
        }
        return plain(found)


@dataclass(frozen=True, kw_only=True)
class SimulationAudit:
    """How the shared Q/DQ graph agrees with what the framework itself simulates; all in dB SQNR.

    Layer by layer, every layer of both starts from the same activations, so that a wrong scale,
    rounding, weight or placement shows where it is. End to end, a last-bit difference between two
    float32 convolutions flips a rounding here and there, the flips spread, and a deep network ends
    far from itself: `floor_db` is how far the graph ends from itself when every activation scale
    moves by one unit in the last place.

    Attributes:
        worst_db: Of the worst tensor, heads included, layer by layer.
        worst_tensor: Its name.
        heads_db: Of the raw heads, layer by layer.
        end_to_end_db: Of the raw heads, end to end.
        floor_db: Of the graph against itself, end to end.
    """

    worst_db: float
    worst_tensor: str
    heads_db: float
    end_to_end_db: float
    floor_db: float

    def to_dict(self) -> dict[str, float | str]:
        """JSON form, which has no infinity: no difference is 999 dB, no agreement -999 dB."""
        return {k: v if isinstance(v, str) else _finite(v) for k, v in vars(self).items()}


def _finite(decibels: float) -> float:
    return -999.0 if np.isnan(decibels) else min(max(decibels, -999.0), 999.0)
