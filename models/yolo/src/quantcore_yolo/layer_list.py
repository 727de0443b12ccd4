"""The description of a model as plain values of bounded size, whatever stood in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NoReturn

from quantcore.errors import CheckpointError

#: What is read of a description.
_KEYS = (
    "activation",
    "anchors",
    "backbone",
    "ch",
    "depth_multiple",
    "head",
    "nc",
    "width_multiple",
)
#: The largest layer list, YOLOv7-E6E's, has 262 rows, and 2,500 values.
_MAX_VALUES = 50_000
_MAX_DEPTH = 8
_MAX_TEXT = 500
#: Beyond any number of channels, classes or pixels.
_MAX_NUMBER = 1 << 31


def layer_list(found: object, origin: str) -> dict[str, object]:
    """A copy of what is read of a model's description; unlike the original it can be trusted.

    Args:
        found: The mapping, its values of any kind, shared or containing themselves.
        origin: The file, for error messages.

    Raises:
        CheckpointError: A value is of a kind that no description has, or there is far too much.
    """
    copy = _Copy(origin)
    if not isinstance(found, Mapping):
        return copy.fail("it is no mapping")
    return {key: copy.of(found[key], 0) for key in _KEYS if key in found}


class _Copy:
    """Copies values and counts them."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._count = 0

    def of(self, value: object, depth: int) -> object:
        """The copy of a value."""
        self._count += 1
        if self._count > _MAX_VALUES or depth > _MAX_DEPTH:
            self.fail("it holds far too many values, or nests too deeply")
        if isinstance(value, list | tuple):
            return [self.of(entry, depth + 1) for entry in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return value if len(value) <= _MAX_TEXT else self.fail("a text is too long")
        if isinstance(value, int | float):
            fits = math.isfinite(value) if isinstance(value, float) else abs(value) < _MAX_NUMBER
            return value if fits else self.fail("a number is too large")
        return self.fail(f"a {type(value).__name__} has no place there")

    def fail(self, what: str) -> NoReturn:
        """Raises CheckpointError."""
        raise CheckpointError(
            f"{self._origin}: its description of the model (yaml) is malformed: {what}"
        )
