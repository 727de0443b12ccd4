"""Any result as JSON holds it: one way to write them all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, overload


@overload
def plain(value: Mapping[str, Any]) -> dict[str, Any]: ...
@overload
def plain(value: Any) -> Any: ...
def plain(value: Any) -> Any:
    """A value in terms of mappings, lists, texts and finite numbers.

    A dataclass becomes the mapping of its fields; one whose JSON form is another says which in a
    method `to_dict`. What is NaN or infinite becomes None: JSON has neither.
    """
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return own(value)
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def own(value: Any) -> dict[str, Any]:
    """The fields of a dataclass alone, for a `to_dict` that adds to them."""
    return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}


def json_text(value: Any) -> str:
    """A result as its JSON file holds it."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
