"""The `percentile` observer."""

from __future__ import annotations

import numpy as np

from quantcore.errors import RangeError
from quantcore.policy.policy import TensorPolicy
from quantcore.table.histogram import BINS, Counts, Edges, Histogram
from quantcore.table.statistics import Statistics

PERCENTILE = 99.99


def find(seen: Statistics, policy: TensorPolicy) -> tuple[float, float]:
    """The magnitude that a percentage of all values does not exceed.

    Definition: p = `percentile` in (0, 100], 99.99 unless set; N values; rank r = N p / 100 in
    float64. Over the histogram of |x| with `bins` bins in [0, 2**k) (8192 unless set), m is the
    first bin whose cumulative count C_m reaches r, and the threshold is (m + (r - C_{m-1}) / c_m)
    w: values are spread evenly over their bin. It never exceeds the largest magnitude seen;
    p = 100 gives exactly that. Symmetric: [-t, t].

    Affine: the same rule on each sign separately, with r = N (p + 100) / 200 of all N values for
    each side, so that both tails together hold 100 - p percent; a side without values, or whose
    tail is not reached, ends at 0.

    Accuracy: the exact p-th percentile (the smallest value with at least r values not above it)
    lies in the same bin, so that the threshold is off by less than w, which is at most amax / 4096
    with 8192 bins (for amax from 2**-100). Depends neither on the order of the images nor on the
    batch size.

    Bin 0 rule: a threshold inside bin 0 would clip everything that the histogram resolves (the
    tensor is almost always zero); that is an error.

    Source: as in pytorch-quantization, with another edge rule: it takes the left edge of the bin,
    see `percentile_threshold`.

    Raises:
        RangeError: The threshold lies in bin 0.
    """
    percentile = policy.parameter("percentile", PERCENTILE)
    bins = int(policy.parameter("bins", BINS))
    histogram = seen.histogram
    assert histogram is not None
    if policy.symmetric:
        counts, edges = histogram.magnitudes(bins)
        threshold = seen.amax
        if percentile < 100:
            threshold = min(interpolated(counts, edges[1], histogram.count, percentile), seen.amax)
        _refuse_zero_bin(threshold, edges[1], seen.amax, percentile)
        return -threshold, threshold
    return _affine(seen, histogram, bins, percentile)


def _affine(
    seen: Statistics, histogram: Histogram, bins: int, percentile: float
) -> tuple[float, float]:
    counts, _ = histogram.signed(bins)
    half, total, width = len(counts) // 2, histogram.count, histogram.width_of(bins)
    ends = []
    for side, extreme in ((counts[half::-1], -seen.minimum), (counts[half:], seen.maximum)):
        extreme = max(extreme, 0.0)
        if percentile == 100 or extreme == 0:
            ends.append(extreme)
            continue
        beyond = total - int(side[1:].sum())  # everything up to bin 0, the other sign included
        inner = np.concatenate([[beyond], side[1:]])
        found = interpolated(inner, width, total, (percentile + 100) / 2)
        ends.append(min(found, extreme) if found > width else 0.0)
    _refuse_zero_bin(max(ends), width, seen.amax, percentile)
    return -ends[0], ends[1]


def interpolated(counts: Counts, width: float, total: int, percentile: float) -> float:
    """Where the cumulative count reaches a percentage, values spread evenly over their bin."""
    rank = total * percentile / 100
    cumulative = np.cumsum(counts)
    bin_ = min(int(np.searchsorted(cumulative, rank)), len(counts) - 1)
    below = int(cumulative[bin_] - counts[bin_])
    return float((bin_ + min((rank - below) / int(counts[bin_]), 1.0)) * width)


def _refuse_zero_bin(threshold: float, width: float, amax: float, percentile: float) -> None:
    if threshold < width and threshold < amax:
        raise RangeError(
            f"percentile {percentile:g} is below {width:.3g}, the first bin, although values reach "
            f"{amax:.3g}: nearly all values are zero; give the layer observer max or mse"
        )


def percentile_threshold(counts: Counts, edges: Edges, percentile: float) -> float:
    """pytorch-quantization's percentile of a histogram of |x|, bit for bit.

    Definition: the left edge of the first bin where the cumulative sum of count / total, in
    float64, reaches percentile / 100 (`calib/histogram.py`, `_compute_amax_percentile`, 2.1.3).

    Args:
        counts: n counts.
        edges: n + 1 edges.
        percentile: 0..100.
    """
    cumulative = np.cumsum(counts / counts.sum())
    return float(edges[np.searchsorted(cumulative, percentile / 100)])
