"""How much noise a range's code adds to a tensor, from a kept histogram alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantcore.errors import RangeError
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.scales import code_of, codes_of
from quantcore.table.histogram import BINS, Histogram
from quantcore.table.statistics import Statistics
from quantcore.table.table import TensorRange

Floats = npt.NDArray[np.float64]


def sqnr(seen: Sequence[Statistics], found: TensorRange, policy: TensorPolicy) -> float | None:
    """Signal-to-quantization-noise ratio of a tensor coded with a range, in dB.

    Definition: 10 log10(S / N) with S = sum of x**2 and N = sum of (Q(x) - x)**2 over all values,
    where Q(x) = s (clip(rint(x / s) + z, codes) - z) with the scale s and the zero point z of the
    Q/DQ graph (`quantcore.qdq.scales`). In-bin assumption: the values of a bin are spread evenly
    between its edges, those of the outermost bins no further than the extremes that were seen;
    bin 0 reaches from -w to w, so that of a tensor with many exact zeros N comes out too large,
    by less than count(bin 0) * w**2 / 3. Both sums are then exact integrals, for the integral of
    the error from 0 to x is k s**3 / 12 + (x - k s)**3 / 3, k being the clipped code of x without
    its zero point: k whole steps, and what is left of the last (or all that is clipped).

    Source: the ratio is the usual one, e.g. Widrow and Kollar, "Quantization Noise", 2008.

    Args:
        seen: One for the tensor, or one for each channel, each with a histogram.
        found: The range.
        policy: How it is coded: bits and symmetry.

    Returns:
        Infinite where the code is exact; None without signal, histogram or a scale.
    """
    try:
        scales, zeros = (np.atleast_1d(v) for v in code_of(found, policy))
    except RangeError:
        return None
    if len(scales) not in (1, len(seen)):
        return None
    signal = noise = 0.0
    for channel, one in enumerate(seen):
        if one.histogram is None:
            return None
        which = channel if len(scales) > 1 else 0
        power, error = _sums(one.histogram, float(scales[which]), int(zeros[which]), policy)
        signal, noise = signal + power, noise + error
    if signal == 0:
        return None
    return 10 * math.log10(signal / noise) if noise else math.inf


def _sums(
    histogram: Histogram, scale: float, zero: int, policy: TensorPolicy
) -> tuple[float, float]:
    """S and N of one histogram."""
    bottom, top = (code - zero for code in codes_of(policy))
    counts, _ = histogram.signed()
    bins = np.arange(1 - BINS, BINS)[counts > 0]
    counts = counts[counts > 0]
    ends = (histogram.minimum, histogram.maximum)
    low = np.clip(np.where(bins > 0, bins, bins - 1) * histogram.width, *ends)
    high = np.clip(np.where(bins < 0, bins, bins + 1) * histogram.width, *ends)

    def error(x: Floats) -> Floats:
        """What is lost of x."""
        rest: Floats = x - np.clip(np.rint(x / scale), bottom, top) * scale
        return rest

    def integral(x: Floats) -> Floats:
        """Of the squared error, from 0 to x."""
        rest = error(x)
        found: Floats = (x - rest) * (scale * scale / 12) + rest**3 / 3
        return found

    # A bin that holds one value, known exactly, has no width to integrate over.
    width = np.where(high > low, high - low, 1.0)
    mean = np.where(high > low, (integral(high) - integral(low)) / width, error(low) ** 2)
    power = (low * low + low * high + high * high) / 3
    return float(power @ counts), float(np.maximum(mean, 0) @ counts)
