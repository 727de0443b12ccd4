"""What a rewrite of the float graph did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcore.ir.model import FloatModel
from quantcore.table.table import CalibrationTable


@dataclass(frozen=True)
class Rewritten:
    """A model after a rewrite.

    Attributes:
        model: The model; heads, and how images go in and boxes come out are as before.
        table: Ranges of that model; None where it is to be calibrated anew.
        summary: What was done, in one line.
        details: The same for programs; JSON-serialisable.
        parity: Largest difference of a head over its largest magnitude, on calibration images,
            where the rewrite preserves the float network.
    """

    model: FloatModel
    table: CalibrationTable | None
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)
    parity: float | None = None

    @property
    def line(self) -> str:
        """What was done and what was checked, in one line."""
        if self.parity is None:
            return self.summary
        return (
            f"{self.summary}; the float network agrees with the given one to {self.parity:.1e} "
            "relative"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without the model and its table."""
        return {
            "fingerprint": self.model.fingerprint,
            "summary": self.summary,
            "details": dict(self.details),
            "parity": self.parity,
        }
