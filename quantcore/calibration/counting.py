"""Counting float32 values into a histogram: loops that numba compiles when this is imported.

Import it late: that takes half a second and 115 MB, the first time 1.6 s (docs/adr/0005).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from quantcore.table.histogram import BINS, Histogram

Flat = npt.NDArray[np.float32]

_Function = TypeVar("_Function", bound=Callable[..., object])

#: Values encoded at once: their places, 16 KiB, stay in the L1 cache.
_CHUNK = 8192
#: Parts of a chunk that are counted in turn, and tables that take them in turn: an increment must
#: wait for the last one of the same counter, and neighbours in an activation are often equal.
_LANES = 8
_TABLES = 2
_DIGITS = BINS.bit_length() - 1
_SHIFT, _MASK = np.int32(31), np.int32(0x7FFFFFFF)

_VALUES = types.Array(types.float32, 1, "C", readonly=True, aligned=False)
_COUNTS = types.Array(types.int64, 1, "C")
_SCRATCH = types.Array(types.uint32, 2, "C")


def compiled(signature: object) -> Callable[[_Function], _Function]:
    """Compiles for one signature, or finds on disk what was compiled before."""

    def decorate(function: _Function) -> _Function:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)  # type: ignore[no-any-return]
        except (RuntimeError, OSError):  # no folder that numba may write
            return numba.njit(signature, nogil=True)(function)  # type: ignore[no-any-return]

    return decorate


@compiled(types.UniTuple(types.float32, 2)(_VALUES))
def extremes(values: Flat) -> tuple[float, float]:
    """Smallest and largest of at least one value.

    Found among integers of the same order, so that the loop needs no care for NaN: it lies beyond
    infinity on either side, and an extreme is not finite where any value is not.
    """
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    integers = values.view(np.int32)
    for i in range(integers.size):  # by index: iterating over the array takes 15 times as long
        bits = integers[i]
        key = np.int32(bits ^ ((bits >> _SHIFT) & _MASK))
        low, high = min(low, key), max(high, key)
    keys = np.array([low, high], np.int32)
    ends = (keys ^ ((keys >> _SHIFT) & _MASK)).view(np.float32)
    zero = np.float32(0)  # makes -0 a 0, so that JSON does not tell which came first
    return ends[0] + zero, ends[1] + zero


@compiled(types.void(_VALUES, types.float32, types.float32, types.float32, _COUNTS, _SCRATCH))
def _count(
    values: Flat,
    low: float,
    high: float,
    scale: float,
    counts: npt.NDArray[np.int64],
    scratch: npt.NDArray[np.uint32],
) -> None:
    """Adds counts of trunc(x * scale); that of -m to the place BINS + m."""
    places = np.empty(_CHUNK, np.uint16)
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK]
        for i in range(chunk.size):
            code = np.int32(chunk[i] * scale)
            places[i] = code if code >= 0 else np.int32(BINS) - code
        each = chunk.size // _LANES
        for i in range(each):
            for lane in range(_LANES):
                scratch[places[i + lane * each], lane % _TABLES] += np.uint32(1)
        for i in range(each * _LANES, chunk.size):
            scratch[places[i], 0] += np.uint32(1)
    for first, size in ((0, np.int32(high * scale)), (BINS, np.int32(-low * scale))):
        for place in range(first, first + size + 1):
            for table in range(_TABLES):
                counts[place] += scratch[place, table]
                scratch[place, table] = 0


class Counter:
    """Adds values to histograms; owns scratch memory, so it serves one thread at a time."""

    def __init__(self) -> None:
        self._scratch = np.zeros((2 * BINS, _TABLES), np.uint32)

    def count(self, histogram: Histogram, values: Flat, low: float, high: float) -> None:
        """Adds values to a histogram.

        Args:
            histogram: Where to; its range grows as needed.
            values: Finite, fewer than 2**32.
            low: Smallest of them.
            high: Largest of them.
        """
        histogram.widen(low, high)
        # A power of two: the product is exact, so that truncating it is trunc(x / w) to the bit.
        scale = math.ldexp(1.0, _DIGITS - histogram.exponent)
        _count(values, low, high, scale, histogram.counts, self._scratch)
