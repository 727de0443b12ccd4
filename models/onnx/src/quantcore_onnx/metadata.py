"""What an export of Ultralytics says of itself in the file's metadata."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from quantcore.errors import CheckpointError

#: Texts of a thousand long class names stay far below.
_MAX_TEXT = 1 << 20

_UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Told:
    """What the metadata tells; nothing where a file has none.

    Attributes:
        names: Of the classes, in index order; empty where they are not told.
        size: (height, width) of the network input in pixels, or None.
    """

    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None


def told(model: onnx.ModelProto, path: Path) -> Told:
    """What a file's metadata tells; an entry that makes no sense counts as none.

    Args:
        model: The file's content.
        path: The file, for error messages.

    Raises:
        CheckpointError: The model is for another task than detection.
    """
    entries = {entry.key: entry.value for entry in model.metadata_props}
    names = _names(_literal(entries.get("names")))
    task = entries.get("task", "detect")
    if names and task != "detect":
        raise CheckpointError(
            f"{path}: says that it is a model for the task {task!r}; give one that detects"
        )
    return Told(names, _size(_literal(entries.get("imgsz"))))


def _literal(text: str | None) -> Any:
    """The Python value that a text spells; None where it spells none."""
    if text is None or len(text) > _MAX_TEXT:
        return None
    try:
        return ast.literal_eval(text)
    except _UNREADABLE:
        return None


def _names(value: Any) -> tuple[str, ...]:
    """Class names out of a list, or out of a dict by index."""
    if isinstance(value, dict) and set(value) == set(range(len(value))):
        value = [value[i] for i in range(len(value))]
    if isinstance(value, list | tuple) and all(isinstance(n, str) and n for n in value):
        return tuple(value)
    return ()


def _size(value: Any) -> tuple[int, int] | None:
    """(height, width) out of a list of two, or out of the side of a square."""
    sides = (value, value) if isinstance(value, int) else value
    if isinstance(sides, list | tuple) and len(sides) == 2:
        height, width = sides
        if all(type(side) is int and side > 0 for side in (height, width)):
            return height, width
    return None
