"""The `mse` observer: the threshold with the smallest mean squared quantization error."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantcore.calibration.entropy import BINS, START_BIN, STRIDE, clip
from quantcore.policy.policy import TensorPolicy
from quantcore.table.histogram import Counts, Edges, Histogram
from quantcore.table.statistics import Statistics

Floats = npt.NDArray[np.float64]

#: Candidates evaluated together: keeps the tables of one step in the L2 cache.
_STEP = 64


def find(seen: Statistics, policy: TensorPolicy) -> tuple[float, float]:
    """The clipping threshold with the smallest mean squared error.

    Definition, symmetric: the histogram of |x| with `bins` bins in [0, 2**k) (2048 unless set, so
    that 1024 to 2048 reach the largest magnitude), searched by `mse_threshold` with `start_bin`
    128, `stride` 1 (unless set) and codes up to 2**(bits - 1) - 1. [-t, t] with the threshold, or
    the largest magnitude where that is smaller, or where there are no more than `start_bin` bins.

    Affine: candidates t are the same bin centres and, last, the largest magnitude; the range of
    each is [max(-t, min(0, min x)), min(t, max(0, max x))], its scale s = (high - low) / (2**bits -
    1) and zero point z = rint(-low / s); the error of a signed bin with centre c is (s (clip(rint(c
    / s) + z, 0, 2**bits - 1) - z) - c)**2 times its count, in float64. The first of the smallest
    wins. Depends neither on the order of the images nor on the batch size.
    """
    histogram = seen.histogram
    assert histogram is not None
    bins = int(policy.parameter("bins", BINS))
    start = int(policy.parameter("start_bin", START_BIN))
    stride = int(policy.parameter("stride", STRIDE))
    if not policy.symmetric:
        return _affine(seen, policy, histogram, bins, slice(start, None, stride))
    counts, edges = histogram.magnitudes(bins)
    top = policy.code.highest(symmetric=True)
    return clip(seen, policy, mse_threshold(counts, edges, top, start, stride))


def mse_threshold(
    counts: Counts,
    edges: Edges,
    top: int = 127,
    start_bin: int = START_BIN,
    stride: int = STRIDE,
) -> float:
    """The threshold of a histogram of |x|, by pytorch-quantization's definition in float64.

    Definition: every value stands at the centre of its bin. Candidates are the centres of bins
    start_bin, start_bin + stride, ...; a candidate t has s = t / top, codes rint(c / s) up to top,
    and the error sum count (s code - c)**2. The first of the smallest wins; where there are no
    candidates, the last edge.

    With boundaries b_j = (j + 1/2) s between codes j and j + 1, the error is a constant minus
    sum over j of 2 s M(b_j) - (2 j + 1) s**2 N(b_j), where N counts the values above b_j and M sums
    them: two look-ups for each code instead of a pass over all bins.

    Source: `_compute_amax_mse` of pytorch-quantization 2.1.3 `calib/histogram.py`, which does it
    in float32: errors that agree to about 1e-6 may order otherwise there.

    Args:
        counts: n counts of a uniform histogram from 0; left untouched.
        edges: n + 1 edges.
        top: Largest code.
        start_bin: First candidate.
        stride: Step between candidates.
    """
    candidates = np.arange(start_bin, len(counts), stride)
    if not len(candidates):
        return float(edges[-1])
    best = candidates[int(np.argmax(_gains(counts.astype(np.float64), candidates, top)))]
    return float(edges[best] + edges[best + 1]) / 2


def _gains(weights: Floats, candidates: npt.NDArray[np.int64], top: int) -> Floats:
    """The part of the error that depends on the candidate, negated; unit: one bin squared."""
    positions = np.arange(len(weights)) + 0.5
    numbers = _tails(weights)
    moments = _tails(weights * positions)
    codes = np.arange(top)
    odd = (2 * codes + 1).astype(np.float64)
    gains = np.empty(len(candidates))
    for start in range(0, len(candidates), _STEP):
        chosen = slice(start, start + _STEP)
        scale = (candidates[chosen] + 0.5) / top
        # The first bin whose centre, at b + 1/2, is not below the boundary.
        bounds = np.ceil(scale[:, None] * (odd / 2) - 0.5).astype(np.int64)
        moment = moments[bounds].sum(axis=1)
        number = numbers[bounds] @ odd
        gains[chosen] = scale * (2 * moment - scale * number)
    return gains


def _tails(values: Floats) -> Floats:
    """Sums of each bin and all above it; 0 past the end."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])


def _affine(
    seen: Statistics, policy: TensorPolicy, histogram: Histogram, bins: int, chosen: slice
) -> tuple[float, float]:
    _, edges = histogram.magnitudes(bins)
    candidates = np.append(((edges[1:] + edges[:-1]) / 2)[chosen], seen.amax)
    counts, centres = histogram.signed(bins)
    occupied = counts > 0
    counts, centres = counts[occupied], centres[occupied]
    top = policy.code.highest(symmetric=False)
    ranges = [clip(seen, policy, float(t)) for t in candidates]
    errors = [_affine_error(counts, centres, low, high, top) for low, high in ranges]
    return ranges[int(np.argmin(errors))]


def _affine_error(counts: Counts, centres: Floats, low: float, high: float, top: int) -> float:
    scale = (high - low) / top
    zero = np.rint(-low / scale)
    codes = np.clip(np.rint(centres / scale) + zero, 0, top)
    return float((((codes - zero) * scale - centres) ** 2) @ counts)
