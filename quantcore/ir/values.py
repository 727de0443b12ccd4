"""Values out of JSON that somebody else may have written, each checked for what it has to be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def mapping(value: Any) -> Mapping[str, Any]:
    """The mapping; raises TypeError."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return value


def listed(value: Any) -> list[Any]:
    """The list; raises TypeError."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def text(value: Any) -> str:
    """The text, which is not empty; raises TypeError."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value


def whole(value: Any) -> int:
    """The whole number from 0; raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is no whole number from 0")
    return value


def number(value: Any) -> float:
    """The number as it is, so that a whole one is written as a whole one again.

    Raises:
        TypeError: It is none.
        ValueError: It is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return value


def positive(value: Any) -> float:
    """The number, see `number`, which must be above 0; raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not positive and finite")
    return value


def flag(value: Any) -> bool:
    """True or false; raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value
