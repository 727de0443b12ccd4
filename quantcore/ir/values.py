"""Values out of JSON that somebody else may have written, each checked for what it has to be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from quantcore.showing import shown


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
    if not isinstance(value, str) or not value:
        raise TypeError(f"{shown(value)} is no text")
    return value


def whole(value: Any) -> int:
    """The whole number from 0; raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{shown(value)} is no whole number from 0")
    return value


def number(value: Any) -> float:
    """The finite number as it is; raises TypeError where it is none, ValueError where too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{shown(value)} is no number")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"{shown(value)} is not finite")
    return value


def positive(value: Any) -> float:
    """The number as it is, so that a whole one is written as a whole one again.

    Raises:
        TypeError: It is none.
        ValueError: It is not positive and finite.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{shown(value)} is no number")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{shown(value)} is not positive and finite")
    return value
