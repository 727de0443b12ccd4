"""Reading files that somebody else made: what they are, how large, and text as plain values."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from quantcore.errors import QuantcoreError
from quantcore.showing import one_line, shown

#: Makes the error that a reader raises, from a message that starts with the file's name.
Fail = Callable[[str], QuantcoreError]

#: Characters of a path in a message.
_LONGEST_PATH = 300
#: Brackets that a JSON text may have beside one in so many bytes: each becomes an object of 64
#: bytes and more, so that a text of nothing else takes forty times its size.
_FREE_BRACKETS, _BYTES_PER_BRACKET = 1_000_000, 12
#: Deeper than any policy or table nests.
_DEEPEST = 60
#: Values of a YAML file, each counted as often as an alias repeats it.
_MOST_VALUES = 50_000
#: Bytes of a YAML file: PyYAML takes seconds for a megabyte.
MOST_YAML = 1 << 19
#: Characters of a number in a YAML file.
_LONGEST_NUMBER = 60


def size_of(path: Path, fail: Fail) -> int:
    """Bytes in a regular file.

    Args:
        path: What a person or another file named; devices and pipes, which need never end, are
            refused.
        fail: Makes the error.
    """
    name = one_line(str(path), _LONGEST_PATH)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise fail(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise fail(f"{name}: cannot be read: {_reason(error)}") from None
    if stat.S_ISDIR(found.st_mode):
        raise fail(f"{name}: is a directory; give a file")
    if not stat.S_ISREG(found.st_mode):
        raise fail(f"{name}: is a device or a pipe; give a regular file")
    return found.st_size


def read_bytes(path: Path, most: int, fail: Fail) -> bytes:
    """The content of a regular file of at most `most` bytes; raises what `fail` makes."""
    size = size_of(path, fail)
    if size > most:
        raise fail(f"{path}: has {size} bytes, more than the {most} that such a file may have")
    return _read(path, size, fail)


def read_start(path: Path, most: int, fail: Fail) -> bytes:
    """The first `most` bytes of a regular file, or all; raises what `fail` makes."""
    return _read(path, min(size_of(path, fail), most), fail)


def _read(path: Path, size: int, fail: Fail) -> bytes:
    try:
        # A file can be replaced by a pipe, or grow, between the look and the reading.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as file:
            return file.read(size)  # not `most`: a buffer of that size would be made first
    except OSError as error:
        raise fail(f"{path}: cannot be read: {_reason(error)}") from None
    except MemoryError:
        raise fail(f"{path}: has {size} bytes, for which there is no memory") from None


def read_text(path: Path, most: int, fail: Fail) -> str:
    """Likewise, as text."""
    try:
        return read_bytes(path, most, fail).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail(f"{path}: is no text in UTF-8 (byte {error.start})") from None


def parse_json(
    text: bytes | str,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    infinite: bool = False,
) -> Any:
    """The value of a JSON text.

    Args:
        text: At most as long as the caller allows.
        infinite: Takes NaN and infinity for numbers, for a reader that can tell where they stand.
        change: Given each object once it is read; what it returns stands in its place.

    Raises:
        ValueError: It is no JSON, says something twice, holds NaN or infinity, or nests so much
            that it would take many times its size.
    """
    if isinstance(text, str):
        brackets = text.count("[") + text.count("{")
    else:
        brackets = text.count(b"[") + text.count(b"{")
    if brackets > _FREE_BRACKETS + len(text) // _BYTES_PER_BRACKET:
        raise ValueError(f"it holds {brackets} lists and objects, far more than its size explains")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError(f"key {shown(_twice(pairs), 60)} is there twice")
        return change(found) if change else found

    try:
        constant = None if infinite else _refuse_constant
        return json.loads(text, object_pairs_hook=once, parse_constant=constant)
    except RecursionError:
        raise ValueError("its values nest too deeply") from None
    except MemoryError:
        raise ValueError("its values take more memory than there is") from None


def _twice(pairs: list[tuple[str, Any]]) -> str:
    keys = [key for key, _ in pairs]
    return next(key for i, key in enumerate(keys) if key in keys[:i])


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: mappings, lists, texts and numbers.

    Raises:
        ValueError: It is no YAML, says something twice, nests deeply, or grows without measure by
            repeating parts of itself.
    """
    try:
        return yaml.load(text, Loader=_BoundedLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(
            one_line(" ".join(str(error).replace(' in "<unicode string>",', " at").split()), 300)
        ) from None
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        # PyYAML's constructors of dates, binary data and sets take what they are given.
        raise ValueError(f"a value is malformed: {one_line(str(error), 100)}") from None


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with a bound on what a text can ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Counts depth and values, those behind an alias again."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"nested more than {_DEEPEST} deep")
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self._depth -= 1
        size = self._sizes.get(id(node))
        if alias and size is None:
            raise yaml.YAMLError("a value contains itself")
        if size is None:
            size = 1 + sum(self._sizes.get(id(child), 1) for child in _children(node))
            self._sizes[id(node)] = size
        if size > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases repeat more than {_MOST_VALUES} values")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuses a key that is there twice, of which PyYAML keeps the last without a word."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line}: key {shown(key.value, 60)} is there twice")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        """Refuses numbers of thousands of digits, which take quadratic time to show."""
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and isinstance(node.value, str) and len(node.value) > _LONGEST_NUMBER:
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: a number of {len(node.value)} characters"
            )
        return super().construct_scalar(node)


def _children(node: Any) -> Iterator[Any]:
    for entry in node.value if isinstance(node, yaml.CollectionNode) else ():
        yield from entry if isinstance(entry, tuple) else (entry,)


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
