"""What a person should know although nothing failed: told once, on standard error."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from quantcore.showing import for_terminal, one_line


class Note(UserWarning):
    """Something that probably is not as it was meant; a notebook shows it as a warning."""


#: Lists of those who gather what is told.
_GATHERING: list[list[str]] = []


def note(text: str) -> None:
    """Tells something, once for each text."""
    for found in _GATHERING:
        if text not in found:
            found.append(text)
    warnings.warn(text, Note, stacklevel=3)


@contextlib.contextmanager
def gathered() -> Iterator[list[str]]:
    """Gathers what is told inside of it, for a report; it is told all the same."""
    found: list[str] = []
    _GATHERING.append(found)
    try:
        yield found
    finally:
        _GATHERING[:] = [other for other in _GATHERING if other is not found]


@contextlib.contextmanager
def as_lines() -> Iterator[None]:
    """Shows notes as the lines of a command: `note: ...`."""
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, Note):
            usual(message, category, *rest, **more)
        elif (line := f"note: {one_line(str(message), 600)}") not in told:
            told.add(line)
            print(for_terminal(line, sys.stderr), file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        usual = warnings.showwarning
        warnings.showwarning = show
        yield


def keep_silent() -> None:
    """For a process that works for another one, which tells the same."""
    warnings.simplefilter("ignore", Note)
