"""Options that a plugin declares as a frozen dataclass: checked and shown without their names.

Each field has a default and, in its metadata, `help`: one line for people. A person writes
`NAME=VALUE`; a field that is a tuple may be given several times.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar, get_origin, get_type_hints

import msgspec

from quantcore.errors import UsageError

T = TypeVar("T")


def option(default: Any, help: str) -> Any:
    """A field of an options class.

    Args:
        default: Where nothing is given.
        help: One line for people.
    """
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """What an options class says of one of its fields.

    Attributes:
        name: As a person writes it.
        default: Where nothing is given.
        help: One line.
        repeats: Whether it may be given several times.
    """

    name: str
    default: Any
    help: str
    repeats: bool


def described(kind: type[Any]) -> tuple[OptionInfo, ...]:
    """The options of a class that have a help line, in order; others are quantcore's own."""
    hints = get_type_hints(kind)
    return tuple(
        OptionInfo(
            name=entry.name,
            default=None if entry.default is MISSING else entry.default,
            help=entry.metadata["help"],
            repeats=_repeats(hints[entry.name]),
        )
        for entry in _open(kind)
    )


def filled(kind: type[T], given: Iterable[tuple[str, str]], who: str, **own: Any) -> T:
    """An options class from what a person wrote.

    Args:
        kind: The class.
        given: Names and values; a name with `-` is the field with `_`.
        who: Whose options they are, for messages: `engine 'tensorrt'`.
        own: Fields that quantcore itself sets.

    Raises:
        UsageError: An unknown name (tells the known ones), or a value that does not fit.
    """
    known = {info.name: info for info in described(kind)}
    values: dict[str, Any] = {}
    for written, value in given:
        name = written.replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            takes = ", ".join(known) or "none"
            raise UsageError(f"{who} has no option {written!r}{hint}; it takes: {takes}")
        if known[name].repeats:
            values[name] = (*values.get(name, ()), value)
        elif name in values:
            raise UsageError(f"{who}: option {written!r} is given twice")
        else:
            values[name] = value
    try:
        return msgspec.convert({**values, **own}, kind, strict=False, dec_hook=_made)
    except msgspec.ValidationError as error:
        raise UsageError(f"{who}: option {_told(error)}") from None


def pairs(written: Iterable[str]) -> list[tuple[str, str]]:
    """`NAME=VALUE` as a person wrote it, in order.

    Raises:
        UsageError: One has no `=`.
    """
    found = []
    for text in written:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"an option is written NAME=VALUE, not {text!r}")
        found.append((name.strip(), value))
    return found


def as_given(options: object) -> Mapping[str, Any]:
    """What differs from the defaults, for records and messages."""
    return {
        entry.name: getattr(options, entry.name)
        for entry in fields(options)  # type: ignore[arg-type]
        if getattr(options, entry.name) != entry.default
    }


def _open(kind: type[Any]) -> list[Field[Any]]:
    return [entry for entry in fields(kind) if "help" in entry.metadata]


def _repeats(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _made(kind: Any, value: Any) -> Any:
    return kind(value)  # a Path, say


def _told(error: msgspec.ValidationError) -> str:
    """`Expected int, got str - at $.threads` as `threads: expected int, got str`."""
    what, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {what[:1].lower()}{what[1:]}" if where else what
