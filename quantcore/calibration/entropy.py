"""The `entropy` observer: the threshold with the smallest Kullback-Leibler divergence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantcore.policy.policy import TensorPolicy
from quantcore.table.histogram import Counts, Edges
from quantcore.table.statistics import Statistics

BINS = 2048
START_BIN = 128
STRIDE = 1

Floats = npt.NDArray[np.float64]

#: Candidates evaluated together: keeps the tables of one step in the L2 cache.
_STEP = 64
#: Divergences that differ by less than this, relatively, are decided by the textbook sum.
_NEAR = 1e-9


def find(seen: Statistics, policy: TensorPolicy) -> tuple[float, float]:
    """The clipping threshold that loses the least information, after Migacz 2017.

    Definition: the histogram of |x| with `bins` bins in [0, 2**k) (2048 unless set, so that 1024
    to 2048 reach the largest magnitude), searched by `entropy_threshold` with `start_bin` 128,
    `stride` 1 (unless set) and 2**(bits - 1) levels. The threshold is the right edge of the last
    bin kept, or the largest magnitude where that is smaller, or where there are no more than
    `start_bin` bins. Symmetric: [-t, t]. Affine: the same threshold clips both sides,
    [max(-t, min(0, min x)), min(t, max(0, max x))]. Depends neither on the order of the images
    nor on the batch size.
    """
    histogram = seen.histogram
    assert histogram is not None
    counts, edges = histogram.magnitudes(int(policy.parameter("bins", BINS)))
    threshold = entropy_threshold(
        counts,
        edges,
        levels=policy.code.levels,
        start_bin=int(policy.parameter("start_bin", START_BIN)),
        stride=int(policy.parameter("stride", STRIDE)),
    )
    return clip(seen, policy, threshold)


def clip(seen: Statistics, policy: TensorPolicy, threshold: float) -> tuple[float, float]:
    """The range that a threshold for magnitudes leaves of what was seen."""
    threshold = min(threshold, seen.amax)
    if policy.symmetric:
        return -threshold, threshold
    return max(-threshold, min(0.0, seen.minimum)), min(threshold, max(0.0, seen.maximum))


def entropy_threshold(
    counts: Counts,
    edges: Edges,
    levels: int = 128,
    start_bin: int = START_BIN,
    stride: int = STRIDE,
) -> float:
    """The threshold of a histogram of |x|, by pytorch-quantization's definition.

    Definition: bin 0 takes the count of bin 1, for exact zeros are no information. Candidate i in
    start_bin, start_bin + stride, ... up to n keeps bins 0..i-1. Its reference P is those counts,
    the rest added to the last. Its quantized Q groups them: bin b is in group j where j i / levels
    <= b < (j + 1) i / levels, and each bin that is not empty takes the mean of the non-empty
    counts of its group. Both are normalised, D = sum p log(p / q), infinite where q is 0 and p is
    not. The threshold is edge i of the smallest D, the largest i among equals. Where there are no
    candidates it is the last edge.

    D is computed from cumulative sums: with the group sums S and non-empty bins n, and O counts
    beyond the candidate, D = (sum p log p - sum S log(S / n) - O log q_last) / T - log T + log(T -
    O), which takes levels steps for each candidate instead of i. Candidates whose D is within
    1e-9 of the smallest are then summed term by term in float64, as the definition says.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017, slides 31-38; the definition is
    that of `_compute_amax_entropy` in pytorch-quantization 2.1.3 `calib/histogram.py`, where
    scipy.stats.entropy normalises.

    Args:
        counts: n counts of a uniform histogram from 0; left untouched.
        edges: n + 1 edges.
        levels: Codes for magnitudes, 2**(bits - 1) for signed codes.
        start_bin: First candidate.
        stride: Step between candidates.
    """
    weights = counts.astype(np.float64)
    if len(weights) > 1:
        weights[0] = weights[1]
    candidates = np.arange(start_bin, len(weights) + 1, stride)
    if not len(candidates) or not weights.any():
        return float(edges[-1])
    divergences = _divergences(weights, candidates, levels)
    least = divergences.min()
    if np.isfinite(least):
        near = np.flatnonzero(divergences <= least + _NEAR * max(1.0, abs(least)))
        exact = np.array([_divergence(weights, int(candidates[i]), levels) for i in near])
        best = near[len(near) - 1 - int(np.argmin(exact[::-1]))]
    else:
        best = len(candidates) - 1
    return float(edges[candidates[best]])


def _divergences(
    weights: Floats, candidates: npt.NDArray[np.int64], levels: int
) -> npt.NDArray[np.float64]:
    """D of every candidate, from cumulative sums."""
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    filled = np.concatenate([[0.0], np.cumsum(weights > 0)])
    self_entropy = np.concatenate([[0.0], np.cumsum(_x_log_x(weights))])
    total = sums[-1]
    last = weights[candidates - 1]
    beyond = total - sums[candidates]
    grouped = np.empty(len(candidates))
    mean_last = np.empty(len(candidates))
    steps = np.arange(levels + 1)
    for start in range(0, len(candidates), _STEP):
        rows = slice(start, start + _STEP)
        bounds = (candidates[rows, None] * steps + (levels - 1)) // levels
        sizes, means = np.diff(sums[bounds], axis=1), np.diff(filled[bounds], axis=1)
        np.divide(sizes, np.maximum(means, 1.0), out=means)
        grouped[rows] = (sizes * np.log(np.where(means > 0, means, 1.0))).sum(axis=1)
        # The group of bin i - 1: the last one, unless there are more groups than bins.
        ends = (candidates[rows] - 1) * levels // candidates[rows]
        mean_last[rows] = means[np.arange(len(ends)), ends]
    # A bin that is empty has q = 0: infinite where counts beyond the candidate land on it.
    with np.errstate(divide="ignore", invalid="ignore"):
        outliers = np.where(beyond > 0, beyond * np.log(np.where(last > 0, mean_last, 0.0)), 0.0)
        reference = self_entropy[candidates - 1] + _x_log_x(last + beyond)
        found = (reference - grouped - outliers) / total - np.log(total) + np.log(sums[candidates])
    return np.where(np.isnan(found), np.inf, found)


def _x_log_x(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))


def _divergence(weights: Floats, kept: int, levels: int) -> float:
    """D of one candidate, term by term."""
    groups = np.arange(kept) * levels // kept
    occupied = weights[:kept] > 0
    sums = np.bincount(groups, weights[:kept], minlength=levels)
    means = sums / np.maximum(np.bincount(groups, occupied, minlength=levels), 1.0)
    quantized = np.where(occupied, means[groups], 0.0)
    reference = weights[:kept].copy()
    reference[-1] += weights[kept:].sum()
    p, q = reference / reference.sum(), quantized / quantized.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))
