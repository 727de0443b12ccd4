"""The layer list of a YOLO yaml: one row a module, `[from, number, module, args]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantcore.errors import CheckpointError
from quantcore.showing import shown

#: The largest model, YOLOv7-E6E, has 262 rows; YOLOv5x repeats a block 16 times.
_MAX_ROWS, _MAX_REPEATS, _MAX_BLOCKS = 2000, 1000, 5000
#: Tensors that one row reads; YOLOv7-E6E joins 10.
_MAX_SOURCES = 64
#: Larger than any kernel, stride or padding; channels are not read from here.
_MAX_ARGUMENT = 4096

#: The index that stands for the image.
IMAGE = -1


@dataclass(frozen=True)
class Row:
    """One row of the layer list.

    Attributes:
        index: Its number, which is also the module's number: `model.<index>`.
        sources: Rows that it reads, as absolute indices; `IMAGE` for the network input.
        repeats: How often the module, or its inner block, is repeated; depth is applied.
        module: Name of the module's class.
        args: Its arguments; texts that stand for None, True and False are replaced.
    """

    index: int
    sources: tuple[int, ...]
    repeats: int
    module: str
    args: tuple[object, ...]

    @property
    def path(self) -> str:
        """The module path."""
        return f"model.{self.index}"

    def number(self, position: int, default: int) -> int:
        """An integer argument; the default where it is missing, None or no number."""
        value = self.args[position] if position < len(self.args) else None
        return value if type(value) is int else default

    def flag(self, position: int, default: bool) -> bool:
        """A boolean argument."""
        value = self.args[position] if position < len(self.args) else None
        return value if isinstance(value, bool) else default

    def numbers(self, position: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """An argument that is a list of integers."""
        value = self.args[position] if position < len(self.args) else None
        if isinstance(value, Sequence) and value and all(type(n) is int for n in value):
            return tuple(value)
        return default


def parse_rows(yaml: Mapping[str, object], origin: str) -> tuple[Row, ...]:
    """The rows of backbone and head, in order.

    Args:
        yaml: The model's description.
        origin: The file, for error messages.

    Raises:
        CheckpointError: There are no rows, or one is malformed.
    """
    backbone, head = yaml.get("backbone"), yaml.get("head")
    if not isinstance(backbone, list) or not isinstance(head, list) or not backbone + head:
        raise CheckpointError(f"{origin}: its yaml has no backbone and head; not a YOLO detector")
    depth = yaml.get("depth_multiple", 1.0)
    if isinstance(depth, bool) or not isinstance(depth, int | float) or not depth > 0:
        raise CheckpointError(
            f"{origin}: depth_multiple must be a positive number, not {shown(depth)}"
        )
    if len(backbone) + len(head) > _MAX_ROWS or depth > _MAX_REPEATS:
        raise CheckpointError(f"{origin}: its layer list is larger than any detector's")
    rows = tuple(_parse_row(i, raw, depth, origin) for i, raw in enumerate(backbone + head))
    blocks = sum(row.repeats for row in rows)
    if blocks > _MAX_BLOCKS:
        raise CheckpointError(f"{origin}: its layer list has {blocks} blocks, too many to be true")
    return rows


def _parse_row(index: int, raw: object, depth: float, origin: str) -> Row:
    if isinstance(raw, list | tuple) and len(raw) == 4:
        sources, repeats, module, args = raw
        if isinstance(sources, int):
            sources = [sources]
        if (
            isinstance(sources, list | tuple)
            and 0 < len(sources) <= _MAX_SOURCES
            and all(type(s) is int and -index - 1 <= s < index for s in sources)
            and type(repeats) is int
            and 0 < repeats <= _MAX_REPEATS
            and isinstance(module, str)
            and isinstance(args, list | tuple)
            and all(_fits(n) for arg in args[1:] for n in (arg if isinstance(arg, list) else [arg]))
        ):
            return Row(
                index=index,
                sources=tuple(s if s >= 0 else index + s for s in sources),
                repeats=max(round(repeats * depth), 1) if repeats > 1 else repeats,
                module=module.rpartition(".")[2],
                args=tuple(_argument(arg) for arg in args),
            )
    raise CheckpointError(f"{origin}: row {index} of the layer list is malformed: {shown(raw)}")


def _fits(value: object) -> bool:
    """Whether an argument is no number, or one that a layer can have."""
    return not isinstance(value, int | float) or abs(value) <= _MAX_ARGUMENT


def _argument(value: object) -> object:
    """An argument as a value: the yaml writes None, and sometimes flags, as text."""
    words: dict[object, object] = {"None": None, "True": True, "False": False}
    return words.get(value, value) if isinstance(value, str) else value


def parse_activation(text: str) -> tuple[str, float] | None:
    """Class name and parameter of an activation such as `nn.LeakyReLU(0.1)`.

    Returns:
        The name and the leading number in the brackets (0.01, LeakyReLU's default, without
        one), or None where the text is no call.
    """
    number = r"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
    pattern = rf"(?:[\w.]+\.)?(\w+)\s*(?:\(\s*(?:negative_slope\s*=\s*)?({number})?[\s\w=,.]*\))?"
    match = re.fullmatch(pattern, text.strip())
    return (match[1], float(match[2] or 0.01)) if match else None
