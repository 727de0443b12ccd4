"""Counting float32 values into the codes of a histogram, at well under a nanosecond a value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from quantcore.calibration.histogram import BINS, CODES, MIN_EXPONENT, exponent_of

Flat = npt.NDArray[np.float32]

#: Values that one call counts, so that its codes take 1 MiB; larger ones leave the cache. The
#: counts that cv2.calcHist returns are float32, exact up to 2**24.
BLOCK = 1 << 19
#: Values looked at and converted at once: 256 KiB and 128 KiB of codes, so that the conversion
#: finds them in the L2 cache.
CHUNK = 1 << 16
_DIGITS = BINS.bit_length() - 1


@dataclass(frozen=True)
class Part:
    """What was seen in one block of values.

    Attributes:
        low: Smallest value; NaN where any value is.
        high: Largest value; NaN where any value is.
        exponent: Range exponent of the codes.
        counts: By code, see `Histogram.add_codes`; None where only extremes were asked for.
    """

    low: float
    high: float
    exponent: int = MIN_EXPONENT
    counts: npt.NDArray[np.int64] | None = None

    @property
    def finite(self) -> bool:
        """Whether every value was a finite number."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def joined(self, other: Part) -> Part:
        """This part and another one of the same range; takes over this one's counts."""
        if self.counts is not None and other.counts is not None:
            np.add(self.counts, other.counts, out=self.counts)
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Part(low, high, self.exponent, self.counts)


class Counter:
    """Turns blocks of values into counts; holds scratch memory, so one for each thread.

    Multiplying by a power of two is exact and the conversion to int16 truncates towards zero, so
    that codes are trunc(x / w) to the bit. The counting itself is OpenCV's 16-bit histogram: on
    the activations of YOLOv5n 0.5 ns a value and thread, where numpy.bincount takes 1.5, the
    fast-histogram package 2.4, OpenCV's histogram of float32 3.5 and numpy.histogram 7. Extremes
    and codes add 0.4; `benchmarks/observers.py` prints what the whole costs beside a forward pass.
    """

    def __init__(self) -> None:
        self._codes = np.empty(BLOCK, np.int16)

    def extremes(self, values: Flat) -> Part:
        """Smallest and largest of a block."""
        return Part(float(values.min()), float(values.max()))

    def count(self, blocks: Iterable[Flat], exponent: int) -> list[Part]:
        """Counts blocks of at most BLOCK values, in one part for each range that they needed.

        Args:
            blocks: Contiguous, not empty.
            exponent: Range exponent to try first. A range that the values leave is widened, which
                costs a second look at the block but happens at most once for each power of two.

        Returns:
            The parts; the last one is without counts where a block is not finite.
        """
        parts: list[Part] = []
        for block in blocks:
            part = self._count(block, max(exponent, parts[-1].exponent if parts else exponent))
            if parts and parts[-1].exponent == part.exponent and part.finite:
                parts[-1] = parts[-1].joined(part)
            else:
                parts.append(part)
            if not part.finite:
                break
        return parts

    def _count(self, values: Flat, exponent: int) -> Part:
        part = self._encode(values, exponent)
        if part.finite and part.counts is None:
            whole = self.extremes(values)
            if not whole.finite:
                return whole
            part = self._encode(values, exponent_of(max(-whole.low, whole.high)))
        return part

    def _encode(self, values: Flat, exponent: int) -> Part:
        """Counts, or none where a chunk leaves the range or is not finite."""
        low, high = math.inf, -math.inf
        limit = math.ldexp(1.0, exponent)
        scale = np.float32(math.ldexp(1.0, _DIGITS - exponent))
        codes = self._codes[: len(values)]
        for start in range(0, len(values), CHUNK):
            chunk = values[start : start + CHUNK]
            a, b = float(chunk.min()), float(chunk.max())
            if not (-limit < a and b < limit):
                return Part(a, b, exponent)
            low, high = min(low, a), max(high, b)
            np.multiply(chunk, scale, out=codes[start : start + len(chunk)], casting="unsafe")
        np.bitwise_and(codes, CODES - 1, out=codes)
        image = codes.view(np.uint16).reshape(1, -1)
        counts = cv2.calcHist([image], [0], None, [CODES], [0, CODES])
        return Part(low, high, exponent, counts.reshape(-1).astype(np.int64))
