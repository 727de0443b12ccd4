"""What a Q/DQ graph of any tool holds: its layers, and how their tensors are coded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a tensor is coded.

    Attributes:
        tensor: Its name in front of the pair.
        codes: `int8`, `uint8`, ...
        scales: How many: one, or one for each channel.
        scale: Smallest and largest.
        span: Smallest and largest value that the codes hold.
        symmetric: Whether every zero point is 0.
    """

    tensor: str
    codes: str
    scales: int
    scale: tuple[float, float]
    span: tuple[float, float]
    symmetric: bool


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One node that computes.

    Attributes:
        name: Of the node, or of what it writes.
        op: Its operator.
        data: How the first input is coded; None where it is float.
        weight: How the second input is, of an operator with weights.
        weighted: Whether it is such an operator.
        error_db: SQNR of its output against the float graph's; None where not measured.
    """

    name: str
    op: str
    data: Coding | None
    weight: Coding | None
    weighted: bool
    error_db: float | None = None

    @property
    def precision(self) -> str:
        """What the graph asks for; an engine may do otherwise: see `inspect`."""
        if self.data is None:
            return "weights only" if self.weight is not None else "float"
        if self.weighted and self.weight is None:
            return "activations only"
        return self.data.codes
