"""Ranges of constant weights, computed exactly: the whole tensor is at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from quantcore.calibration.observers import check_scale
from quantcore.calibration.percentile import PERCENTILE
from quantcore.contracts.observing import place
from quantcore.errors import PolicyError, RangeError
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.table.table import TensorRange

Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

#: The mse search tries amax * i / MSE_STEPS for i from MSE_FIRST to MSE_STEPS.
MSE_STEPS, MSE_FIRST = 64, 16


def weight_range(site: Site, weight: npt.NDArray[np.generic]) -> TensorRange:
    """The range of a weight, per tensor or for each channel of the site's axis.

    Definitions, for each row (a channel, or the whole tensor) of N values:

    - max: symmetric, the largest magnitude; affine, [min(0, min w), max(0, max w)].
    - percentile (99.99 unless set): the value of rank ceil(N p / 100) among the N sorted
      magnitudes, no histogram; affine, the value of rank ceil(N (p + 100) / 200) on either side,
      or 0 where that has the other sign.
    - mse: candidates are the max range times i / 64, i = 16..64; the error is the sum over the
      row of (Q/DQ(w) - w)**2 in float32, accumulated in float32 pairwise, with codes rint(w / s)
      clipped to +-(2**(bits - 1) - 1), or affine to the code's 2**bits values around the zero
      point rint(-low / s). The last of the smallest wins, that is the widest.

    A dead channel, constant zero, has the range 0: it is coded exactly with scale 1.

    Raises:
        PolicyError: Another observer: what it averages or bins does not exist for constants.
        RangeError: NaN or infinite, or no values; names tensor, layers and channel.
    """
    find = _FINDERS.get(site.policy.observer)
    if find is None:
        raise PolicyError(
            f"{place(site)}: the portable observers for weights are {', '.join(_FINDERS)}, not "
            f"{site.policy.observer!r}"
        )
    values = np.asarray(weight, dtype=np.float32)
    if site.axis is None:
        rows = values.reshape(1, -1)
    else:
        rows = np.ascontiguousarray(np.moveaxis(values, site.axis, 0))
        rows = rows.reshape(len(rows), -1)
    _check(site, rows)
    lows, highs = find(rows, site.policy)
    for channel, (low, high) in enumerate(zip(lows, highs, strict=True)):
        if low < high:
            where = f", channel {channel}" if site.axis is not None else ""
            check_scale(place(site) + where, float(low), float(high), site.policy)
    ends = [tuple(float(v) + 0.0 for v in side) for side in (lows, highs)]
    if site.axis is None:
        return TensorRange(site.role, ends[0][0], ends[1][0])
    return TensorRange(site.role, ends[0], ends[1], site.axis)


def _check(site: Site, rows: Rows) -> None:
    if not rows.size:
        raise RangeError(f"{place(site)}: has no values")
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        channel = f", channel {int(np.argmax(bad))}" if site.axis is not None else ""
        raise RangeError(f"{place(site)}{channel}: NaN or infinite; check the checkpoint")


def _max(rows: Rows, policy: TensorPolicy) -> tuple[Floats, Floats]:
    low = np.minimum(rows.min(axis=1), 0).astype(np.float64)
    high = np.maximum(rows.max(axis=1), 0).astype(np.float64)
    if not policy.symmetric:
        return low, high
    amax = np.maximum(-low, high)
    return -amax, amax


def _percentile(rows: Rows, policy: TensorPolicy) -> tuple[Floats, Floats]:
    percentile = policy.parameter("percentile", PERCENTILE)
    if policy.symmetric:
        amax = _ranked(np.abs(rows), percentile)
        return -amax, amax
    tail = (percentile + 100) / 2
    return np.minimum(-_ranked(-rows, tail), 0), np.maximum(_ranked(rows, tail), 0)


def _ranked(rows: Rows, percentile: float) -> Floats:
    rank = min(max(math.ceil(rows.shape[1] * percentile / 100), 1), rows.shape[1])
    ranked: Floats = np.partition(rows, rank - 1, axis=1)[:, rank - 1].astype(np.float64)
    return ranked


def _mse(rows: Rows, policy: TensorPolicy) -> tuple[Floats, Floats]:
    low, high = _max(rows, policy)
    best_low, best_high = low.copy(), high.copy()
    least = np.full(len(rows), np.inf)
    for step in range(MSE_STEPS, MSE_FIRST - 1, -1):
        error = _error(rows, low * step / MSE_STEPS, high * step / MSE_STEPS, policy)
        better = error < least
        least[better] = error[better]
        best_low[better] = low[better] * step / MSE_STEPS
        best_high[better] = high[better] * step / MSE_STEPS
    return best_low, best_high


def _error(rows: Rows, low: Floats, high: Floats, policy: TensorPolicy) -> Rows:
    """Squared error of each row, coded with its range."""
    top = policy.code.highest(policy.symmetric)
    if policy.symmetric:
        scale, zero, bottom = high / top, np.zeros(len(rows)), -top
    else:
        scale, bottom = (high - low) / top, 0
        zero = np.rint(-low / np.where(scale > 0, scale, 1))
    factor = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
    offset = zero.astype(np.float32)[:, None]
    codes = np.rint(rows / factor)
    np.clip(codes, bottom - offset, top - offset, out=codes)
    codes *= factor
    codes -= rows
    error: Rows = np.square(codes, out=codes).sum(axis=1)
    return error


_FINDERS: Mapping[str, Callable[[Rows, TensorPolicy], tuple[Floats, Floats]]] = {
    "max": _max,
    "percentile": _percentile,
    "mse": _mse,
}
