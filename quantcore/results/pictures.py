"""What was found in single pictures, by name: for people and for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantcore.runtime.plain import own

FORMAT = "quantcore.pictures/1"


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One thing that was found in a picture, or the class of the whole picture.

    Attributes:
        name: Of its class.
        class_index: Of its class in the model.
        score: 0..1.
        box: x1, y1, x2, y2 in pixels; None where the whole picture is meant.
        other_score: Where it was lost or gained, what the other network gave the same object below
            the threshold; None where that saw nothing there.
    """

    name: str
    class_index: int
    score: float
    box: tuple[float, float, float, float] | None
    other_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What was found in a picture.

    Attributes:
        file: Its file.
        frame: Number of the frame in a video; None for an image.
        width: Pixels.
        height: Likewise.
        found: Best first.
        reference: What the float network finds; None where it was not asked.
        lost: Of `reference` what is not in `found`.
        gained: Of `found` what is not in `reference`.
    """

    file: str
    frame: int | None
    width: int
    height: int
    found: tuple[Sight, ...]
    reference: tuple[Sight, ...] | None = None
    lost: tuple[Sight, ...] = ()
    gained: tuple[Sight, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what was lost and gained only where there is something to hold against."""
        data = own(self)
        if self.reference is None:
            for name in ("reference", "lost", "gained"):
                del data[name]
        return data
