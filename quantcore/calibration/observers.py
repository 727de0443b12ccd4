"""The portable observers by name, and the rules around every range that they find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from quantcore.calibration import entropy, max, moving_average, mse, percentile
from quantcore.contracts.observing import place
from quantcore.errors import PolicyError, RangeError
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.table.histogram import BINS
from quantcore.table.statistics import Statistics
from quantcore.table.table import TensorRange

Finder = Callable[[Statistics, TensorPolicy], tuple[float, float]]

FINDERS: Mapping[str, Finder] = {
    "max": max.find,
    "percentile": percentile.find,
    "entropy": entropy.find,
    "mse": mse.find,
    "moving_average": moving_average.find,
}
#: The observers that read the histogram.
BINNED = frozenset({"percentile", "entropy", "mse"})

#: Smallest normal float32. Engines flush smaller scales to zero.
_TINY = float(np.finfo(np.float32).tiny)


def check_policy(policy: TensorPolicy) -> None:
    """Refuses what the portable observers cannot do, before any image is read.

    Raises:
        PolicyError: Bins that are no power of two, or too many.
    """
    bins = int(policy.parameter("bins", BINS))
    if bins & (bins - 1) or not 2 <= bins <= BINS:
        raise PolicyError(
            f"the portable observer {policy.observer!r} takes a power of two up to {BINS} as "
            f"bins, not {bins}"
        )


def range_of(
    site: Site, seen: Sequence[Statistics], policy: TensorPolicy | None = None
) -> TensorRange:
    """The range of a site, by its own policy or another.

    Args:
        site: What was observed.
        seen: One for the tensor, or one for each channel of the site's axis.
        policy: Another observer to apply to the same statistics.

    Raises:
        PolicyError: The statistics lack what the observer reads.
        RangeError: No value was seen, or the range has no scale; names tensor and layers.
    """
    policy = policy or site.policy
    ends = []
    for channel, statistics in enumerate(seen):
        where = place(site) + (f", channel {channel}" if site.axis is not None else "")
        ends.append(_ends(where, statistics, policy))
    if site.axis is None:
        return TensorRange(site.role, *ends[0])
    lows, highs = zip(*ends, strict=True)
    return TensorRange(site.role, tuple(lows), tuple(highs), site.axis)


def _ends(where: str, seen: Statistics, policy: TensorPolicy) -> tuple[float, float]:
    check_policy(policy)
    if seen.empty:
        raise RangeError(
            f"{where}: empty in all {seen.images} images; set `quantize: false` for the layer"
        )
    if seen.amax == 0:
        return 0.0, 0.0  # nothing but zeros: coded exactly with scale 1, whatever the observer
    if policy.observer in BINNED and seen.histogram is None:
        raise PolicyError(f"{where}: observer {policy.observer!r} needs a histogram; none was kept")
    if policy.observer == "moving_average":
        momentum = moving_average.momentum(policy)
        if seen.average(momentum) is None:
            raise PolicyError(f"{where}: no moving average with momentum {momentum} was kept")
    try:
        low, high = FINDERS[policy.observer](seen, policy)
    except RangeError as error:
        raise RangeError(f"{where}: {error}") from None
    check_scale(where, low, high, policy)
    return low + 0.0, high + 0.0  # no negative zero, which JSON would keep


def check_scale(where: str, low: float, high: float, policy: TensorPolicy) -> None:
    """Refuses a range whose scale is not a normal float32.

    Raises:
        RangeError: Naming the place and the largest magnitude.
    """
    steps = policy.code.highest(policy.symmetric)
    span = high - low if not policy.symmetric else high
    if span / steps < _TINY:
        raise RangeError(
            f"{where}: the range [{low:.3g}, {high:.3g}] is so small that its scale is no normal "
            "float32 number, and engines flush it to zero; set `quantize: false` for the layer"
        )
