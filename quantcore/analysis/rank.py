"""Whether two measures put the same things in the same order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from quantcore.results.estimate import Correlation, interval

Floats = npt.NDArray[np.float64]


def ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    order = np.argsort(values, kind="mergesort")
    _, inverse, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    found = np.empty(len(values))
    found[order] = ((ends - counts) + (ends - 1))[inverse] / 2
    return found


def spearman(first: Floats, second: Floats) -> float:
    """Pearson's correlation of the ranks (Spearman 1904); NaN where one is constant."""
    a, b = (r - r.mean() for r in (ranks(first), ranks(second)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def kendall(first: Floats, second: Floats) -> float:
    """Kendall's tau-b (1945), which allows for ties; NaN where one is constant."""
    a, b = (np.sign(v[:, None] - v[None, :]) for v in (first, second))
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else float("nan")


def correlation(
    first: Floats,
    second: Floats,
    measure: Callable[[Floats, Floats], float] = spearman,
    count: int = 1000,
    seed: int = 0,
) -> Correlation:
    """A rank correlation and its uncertainty, the things compared drawn anew.

    Args:
        first: One figure for each thing.
        second: Likewise, in the same order.
        measure: `spearman` or `kendall`.
        count: Bootstrap draws.
        seed: Of the draws.
    """
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(first), (count, len(first)))
    drawn = np.asarray([measure(first[pick], second[pick]) for pick in picks])
    return Correlation(measure(first, second), *interval(drawn))
