"""A streaming histogram whose counts depend on the values alone, not on their order or batching."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.errors import TableError
from quantcore.ir.values import number
from quantcore.showing import shown
from quantcore.table.packing import pack_array, unpack_array

Counts = npt.NDArray[np.int64]
Edges = npt.NDArray[np.float64]

#: Bins of each sign: a power of two.
BINS = 8192
#: The range never shrinks below [0, 2**MIN_EXPONENT), so that its scale is a finite float32.
MIN_EXPONENT = -100


def exponent_of(magnitude: float) -> int:
    """The smallest k, at least MIN_EXPONENT, with `magnitude < 2**k`."""
    return max(math.frexp(magnitude)[1], MIN_EXPONENT) if magnitude else MIN_EXPONENT


@dataclass(eq=False)
class Histogram:
    """Counts of values in bins whose width is a power of two.

    With range exponent k, the bin width is w = 2**(k - 13). A value x belongs to the bin
    trunc(x / w) of its sign: bin 0 is (-w, w), bin m > 0 is [m w, (m + 1) w) and bin -m is
    (-(m + 1) w, -m w]. The division is exact, for w is a power of two.

    Growth: k is the smallest exponent for which every magnitude seen is below 2**k. When a larger
    value comes, k grows by d and each 2**d neighbouring bins are added into one. As
    trunc(trunc(x / w) / 2**d) = trunc(x / (2**d w)), the merged counts are those that the final
    width would have given from the start: no count is lost or moved, no second pass is needed,
    and the histogram is a function of the multiset of values: neither the order of the images
    nor their grouping into batches changes one bit of it. The largest magnitude lies in the upper
    half of the range, so that w is between 1/8192 and 1/4096 of it.

    The memory is fixed: 128 KiB a tensor. Counts are int64.

    Source: own definition. Paddle's histogram (rescaled in proportion as the maximum grows) and
    pytorch-quantization's (first batch sets the width, `calib/histogram.py` of 2.1.3) depend on
    the order of the images; `docs/calibration.md` has the comparison.

    Attributes:
        exponent: k.
        counts: Of `positive`, then of `negative`.
        minimum: Smallest value seen, exactly; inf before the first.
        maximum: Largest value seen, exactly; -inf before the first.
    """

    exponent: int = MIN_EXPONENT
    counts: Counts = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))
    minimum: float = math.inf
    maximum: float = -math.inf

    def __eq__(self, other: object) -> bool:
        """Whether both counted the same values, as far as bins tell."""
        return isinstance(other, Histogram) and self.to_dict() == other.to_dict()

    @property
    def positive(self) -> Counts:
        """Counts of bins 0..8191, a view; bin 0 holds the small values of both signs."""
        return self.counts[:BINS]

    @property
    def negative(self) -> Counts:
        """Counts of bins 0..-8191 by magnitude, a view; its first entry is always zero."""
        return self.counts[BINS:]

    @property
    def width(self) -> float:
        """Width of a bin."""
        return self.width_of(BINS)

    def width_of(self, bins: int) -> float:
        """Width of a bin where the whole range has `bins` of them."""
        return math.ldexp(1.0, self.exponent - (bins.bit_length() - 1))

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    @property
    def amax(self) -> float:
        """Largest magnitude seen, exactly; 0 before the first value."""
        return max(abs(self.minimum), abs(self.maximum)) if self.count else 0.0

    def widen(self, low: float, high: float) -> None:
        """Takes in the extremes of values to be counted; the range holds them afterwards."""
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self._grow(exponent_of(max(-low, high)))

    def merge(self, other: Histogram) -> None:
        """Adds another histogram's counts; the order of merging does not matter."""
        if other.count:
            self.widen(other.minimum, other.maximum)
            added = Histogram(other.exponent, other.counts.copy())
            added._grow(self.exponent)
            self.counts += added.counts

    def _grow(self, exponent: int) -> None:
        """Widens the range to [0, 2**exponent) by merging neighbouring bins."""
        steps = exponent - self.exponent
        if steps > 0:
            self.positive[:] = _merged(self.positive, steps)
            self.negative[:] = _merged(self.negative, steps)
            self.positive[0] += self.negative[0]
            self.negative[0] = 0
            self.exponent = exponent

    def magnitudes(self, bins: int = BINS) -> tuple[Counts, Edges]:
        """The histogram of |x| in uniform bins from 0 up to the bin of the largest magnitude.

        Args:
            bins: How many bins the whole range [0, 2**k) has; a power of two up to BINS. Between
                half of them and all of them come back, for trailing empty bins are left out.

        Returns:
            n counts and n + 1 edges.
        """
        steps = BINS.bit_length() - bins.bit_length()
        counts = _merged(self.positive + self.negative, steps)[:bins]
        width = self.width_of(bins)
        used = min(int(self.amax / width) + 1, bins)
        return counts[:used], np.arange(used + 1, dtype=np.float64) * width

    def signed(self, bins: int = BINS) -> tuple[Counts, Edges]:
        """Counts and centres of the signed bins, from -(bins - 1) to bins - 1.

        The centre of bin 0 is 0.
        """
        steps = BINS.bit_length() - bins.bit_length()
        positive, negative = _merged(self.positive, steps), _merged(self.negative, steps)
        positive[0] += negative[0]
        width = self.width_of(bins)
        centres = (np.arange(1, bins, dtype=np.float64) + 0.5) * width
        counts = np.concatenate([negative[bins - 1 : 0 : -1], positive[:bins]])
        return counts, np.concatenate([-centres[::-1], [0.0], centres])

    def to_dict(self) -> dict[str, Any]:
        """JSON form: both signs, packed, from bin 0 to their last occupied bin."""
        return {
            "exponent": self.exponent,
            "positive": pack_array(np.trim_zeros(self.positive, "b")),
            "negative": pack_array(np.trim_zeros(self.negative, "b")),
            "min": self.minimum if self.count else None,
            "max": self.maximum if self.count else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Histogram:
        """Reads the JSON form.

        Raises:
            TableError: Missing keys, or counts that no histogram can hold.
        """
        try:
            found = cls(int(number(data["exponent"])))
            for name, own in (("positive", found.positive), ("negative", found.negative)):
                given = unpack_array(data[name], np.int64, BINS)
                own[: len(given)] = given
            if data["min"] is not None:
                found.minimum, found.maximum = (float(number(data[end])) for end in ("min", "max"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise TableError(f"malformed histogram: {shown(error)}") from None
        if not found._consistent():
            raise TableError(
                "malformed histogram: counts, range and extremes contradict each other"
            )
        return found

    def _consistent(self) -> bool:
        if self.counts.min() < 0 or self.negative[0]:
            return False
        if not self.count:
            return self.exponent == MIN_EXPONENT
        finite = math.isfinite(self.minimum) and math.isfinite(self.maximum)
        ordered = finite and self.minimum <= self.maximum
        return ordered and self.exponent == exponent_of(self.amax)


def _merged(counts: Counts, steps: int) -> Counts:
    """Sums of each 2**steps neighbours, padded with zeros to the same length."""
    merged = np.zeros(BINS, np.int64)
    if steps < BINS.bit_length():
        sums = counts.reshape(-1, 1 << steps).sum(axis=1)
        merged[: len(sums)] = sums
    else:
        merged[0] = counts.sum()
    return merged
