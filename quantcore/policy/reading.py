"""What everything that reads a policy shares: mappings, unknown keys, near misses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from quantcore.errors import PolicyError
from quantcore.showing import shown


def mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under a key, empty where there is none; raises PolicyError."""
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise PolicyError(f"{key}: must be a mapping such as {{observer: max}}, not {shown(value)}")
    return value


def refuse_unknown(data: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raises PolicyError for a key that nothing reads."""
    known = sorted(known)
    for key in data:
        if key not in known:
            hint = suggest(str(key), known)
            raise PolicyError(f"{where}: unknown key {shown(key)}{hint}; know {', '.join(known)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The known word that a mistyped one may have meant, for messages; empty where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {shown(close[0])}?)" if close else ""
