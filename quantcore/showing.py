"""How a value out of a file is shown in a message: escaped, and never more than a little."""

from __future__ import annotations

import reprlib
import shutil
import textwrap
from typing import Any, TextIO

#: Longer numbers are shown by their size: turning one into text takes quadratic time.
_DIGITS = 64

#: More characters than any message of ours needs.
_LONGEST = 2000


def one_line(text: str, most: int = _LONGEST) -> str:
    """A text on one line of at most `most` characters, whoever wrote it.

    Line breaks and control characters, with which a file could fake or erase lines of a terminal,
    are spelled out as Python spells them.
    """
    plain = text[: most + 1].replace("\n", " ").replace("\t", " ")
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in plain)
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def for_terminal(text: str, stream: TextIO) -> str:
    """A text broken between words where a terminal shows it; on one line for logs and programs."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


class _Short(reprlib.Repr):
    """A `repr` that takes bounded time, whatever contains itself or shares its parts."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 6
        self.maxstring = self.maxother = limit

    def repr_int(self, x: int, level: int) -> str:
        """A number of many digits is told by their number."""
        if x.bit_length() <= _DIGITS * 3:
            return repr(x)
        return f"<a number of about {int(x.bit_length() * 0.30103) + 1} digits>"

    def repr_str(self, x: str, level: int) -> str:
        """Cut before it is escaped, so that the cost is that of what is shown."""
        return repr(x if len(x) <= self.maxstring else x[: self.maxstring] + "...")

    def repr_instance(self, x: Any, level: int) -> str:
        """What is none of the plain kinds is told by its kind."""
        if isinstance(x, BaseException):
            return f"{type(x).__name__}({', '.join(self.repr1(a, level - 1) for a in x.args[:3])})"
        return repr(x) if x is None or isinstance(x, bool | float) else f"<{type(x).__name__}>"


def shown(value: object, limit: int = 200) -> str:
    """A value as `repr` shows it, on one line of at most `limit` characters.

    Args:
        value: From a file: text, numbers, and lists or mappings of them, nested in any way.
        limit: Most characters.
    """
    return one_line(_Short(limit).repr(value), limit)
