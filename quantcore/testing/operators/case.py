"""One node with its inputs, and where the choices in it come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Values = npt.NDArray[Any]


class Pick(ABC):
    """Chooses."""

    @abstractmethod
    def whole(self, low: int, high: int) -> int:
        """A whole number between two, both possible."""

    def one(self, options: Sequence[T]) -> T:
        """One of several."""
        return options[self.whole(0, len(options) - 1)]

    def maybe(self) -> bool:
        """One way or the other."""
        return self.one((False, True))

    def sides(self, low: int = 1, high: int = 4) -> tuple[int, ...]:
        """A shape of so many axes."""
        return tuple(self.whole(1, 5) for _ in range(self.whole(low, high)))

    def axis(self, rank: int) -> int:
        """An axis, counted from either end."""
        return self.whole(-rank, rank - 1)

    def axes(self, rank: int) -> list[int]:
        """Some axes, one at least, each counted from either end, in any order."""
        mask = self.whole(1, 2**rank - 1)
        chosen = [a - (rank if self.maybe() else 0) for a in range(rank) if mask >> a & 1]
        return chosen[::-1] if self.maybe() else chosen

    def floats(self, shape: Sequence[int], low: float = -3, high: float = 3) -> Values:
        """Values in a range, some of them equal where the numbers are round ones."""
        dice = np.random.default_rng(self.whole(0, 2**16))
        found = dice.uniform(low, high, shape)
        if low < 0 and self.maybe():
            found = np.round(found * 4) / 4
        return np.asarray(found, np.float32)

    def wholes(self, shape: Sequence[int], low: int, high: int) -> Values:
        """Whole numbers in a range, both ends possible."""
        dice = np.random.default_rng(self.whole(0, 2**16))
        return np.asarray(dice.integers(low, high, shape, endpoint=True), np.int64)

    def given(self, values: Values) -> Computed | Values:
        """Values as a constant or as something that the graph computes."""
        return Computed(values) if self.maybe() else values


class Dice(Pick):
    """Chooses by a seed."""

    def __init__(self, seed: int) -> None:
        self._dice = np.random.default_rng(seed)

    def whole(self, low: int, high: int) -> int:
        """See Pick."""
        return int(self._dice.integers(low, high, endpoint=True))


@dataclass(frozen=True)
class Computed:
    """Values of an input that the graph computes."""

    values: Values


@dataclass(frozen=True)
class Case:
    """One node.

    Attributes:
        op: ONNX operator.
        inputs: Constants, computed values, and None for one that is left out.
        attributes: By name.
        opset: What it is written in.
        outputs: How many it has.
    """

    op: str
    inputs: tuple[Computed | Values | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1


def computed(values: Values) -> Computed:
    """Values that the graph computes."""
    return Computed(values)


def int64(values: Sequence[int]) -> Values:
    """Whole numbers as ONNX wants shapes and axes."""
    return np.array(values, np.int64)
