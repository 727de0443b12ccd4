"""Where two calibration tables disagree, and by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from quantcore.runtime.plain import own, plain


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One tensor in two tables.

    Attributes:
        tensor: Name in the float graph.
        role: `activation` or `weight`.
        first: amax in the first table; per channel its largest.
        second: Likewise in the second.
        ratio: second / first; per channel that of the channel that differs most. 1 where both are
            zero, infinite where only the first is.
        first_db: SQNR of the tensor coded with the first table's range, see
            `quantcore.analysis.sqnr`; None where no histogram is at hand. Both are found on one
            histogram: the first table's, or the second's where the first kept none.
        second_db: Likewise with the second table's range.
    """

    tensor: str
    role: str
    first: float
    second: float
    ratio: float
    first_db: float | None = None
    second_db: float | None = None

    @property
    def decibels(self) -> float | None:
        """SQNR won in the second table against the first, in dB; negative where it is noisier."""
        if self.first_db is None or self.second_db is None:
            return None
        return 0.0 if self.first_db == self.second_db else self.second_db - self.first_db

    @property
    def octaves(self) -> float:
        """Size of the disagreement: |log2(ratio)|."""
        return abs(math.log2(self.ratio)) if 0 < self.ratio < math.inf else math.inf

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what is infinite is None."""
        return {**own(self), "decibels": plain(self.decibels)}


@dataclass(frozen=True)
class TableDifference:
    """Two tables.

    Attributes:
        tensors: What both hold, the largest disagreement first: in dB where a histogram tells it,
            then the rest by the ratio of their ranges.
        only_first: Tensors that the second table lacks.
        only_second: Tensors that the first table lacks.
    """

    tensors: tuple[TensorDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def has_noise(self) -> bool:
        """Whether any disagreement is known in dB."""
        return any(tensor.decibels is not None for tensor in self.tensors)
