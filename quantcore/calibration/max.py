"""The `max` observer."""

from __future__ import annotations

from quantcore.policy.policy import TensorPolicy
from quantcore.table.statistics import Statistics


def find(seen: Statistics, policy: TensorPolicy) -> tuple[float, float]:
    """The range of everything that was seen.

    Definition: symmetric, [-a, a] with a = max |x| over all values of all images, exactly; affine,
    [min(0, min x), max(0, max x)], exactly. No parameters, no rounding, nothing is clipped.
    Depends neither on the order of the images nor on the batch size.

    Source: Krishnamoorthi 2018 (arXiv:1806.08342), section 3.1; equals pytorch-quantization's
    MaxCalibrator and Paddle's AbsmaxQuantizer.
    """
    if policy.symmetric:
        return -seen.amax, seen.amax
    return min(0.0, seen.minimum), max(0.0, seen.maximum)
