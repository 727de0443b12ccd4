"""The `moving_average` observer."""

from __future__ import annotations

from quantcore.policy.policy import TensorPolicy
from quantcore.table.statistics import Statistics

MOMENTUM = 0.9


def momentum(policy: TensorPolicy) -> float:
    """The weight of the past that a policy asks for."""
    return float(policy.parameter("momentum", MOMENTUM))


def find(seen: Statistics, policy: TensorPolicy) -> tuple[float, float]:
    """An exponential moving average of each image's extremes.

    Definition: per image v = max |x| (symmetric) or v = min x and v = max x (affine); the first
    image sets m = v, each later one m <- momentum * m + (1 - momentum) * v in float64, momentum
    0.9 unless set. Symmetric: [-m, m]. Affine: [min(0, m_min), max(0, m_max)]. Images are averaged
    one by one, also inside a batch, so the batch size does not matter; the order does. An image
    whose tensor is empty is passed over.

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3.1, who average batches.
    """
    average = seen.average(momentum(policy))
    assert average is not None
    if policy.symmetric:
        return -average.amax, average.amax
    return min(0.0, average.low), max(0.0, average.high)
