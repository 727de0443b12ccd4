"""Values out of JSON that somebody else may have written, each checked for what it has to be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from quantcore.showing import shown

#: Characters of a text, and what whole numbers lie below.
_LONGEST, _LARGEST = 1000, 1 << 53


def mapping(value: Any) -> Mapping[str, Any]:
    """The mapping; raises TypeError."""
    if not isinstance(value, dict):
        raise TypeError(f"{shown(value)} is no mapping")
    return value


def listed(value: Any) -> list[Any]:
    """The list; raises TypeError."""
    if not isinstance(value, list):
        raise TypeError(f"{shown(value)} is no list")
    return value


def text(value: Any) -> str:
    """The text, which is not empty; raises TypeError."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise TypeError(f"{shown(value)} is no text of 1 to {_LONGEST} characters")
    return value


def whole(value: Any) -> int:
    """The whole number from 0; raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise TypeError(f"{shown(value)} is no whole number from 0")
    return value


def number(value: Any) -> float:
    """The number as it is, so that a whole one is written as a whole one again.

    Raises:
        TypeError: It is none.
        ValueError: It is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{shown(value)} is no number")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{shown(value)} is not finite")
    return value


def positive(value: Any) -> float:
    """The number, see `number`, which must be above 0; raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{shown(value)} is no number")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{shown(value)} is not positive and finite")
    return value


def flag(value: Any) -> bool:
    """True or false; raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{shown(value)} is neither true nor false")
    return value
