"""What a training step means: slow and obvious, in float64, for every framework to be held to.

Quantizers round, and rounding has no gradient of use; what stands for it is decided here and
nowhere else.

- A value that is coded passes its gradient on unchanged (the straight-through estimator, Bengio et
  al. 2013, arXiv:1308.3432); one that is clipped passes none. A value is clipped where the code
  that it rounds to is none of the code's: up to half a step beyond the last code it is only
  rounded, like any other, and the largest weight of a channel is never clipped by the last bit of a
  division.
- A learned scale has the gradient of LSQ (Esser et al. 2020, arXiv:1902.08153, equation 3): code -
  value / scale where the value is coded (less the zero point), the last code where it is clipped;
  times 1 / sqrt(N Q), N values of the tensor in one image, Q the largest code (section 2.2). What
  is trained is the scale's logarithm, so that a learning rate is a share of the scale, and no step
  makes it negative.
- Tensors of one group have one scale; its gradient is the sum of theirs.
- The range of a weight is its largest magnitude at that step, of each channel where it is per
  channel; nothing is clipped, and the gradient takes the range for a constant.
- Labels have the cross-entropy of the softmax over a head's classes, beside the weighted squares.
- Parameters are moved by Adam (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantcore.contracts.observing import largest

Values = npt.NDArray[np.float64]

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def fake_quantize(x: Values, scale: float, zero: int, lowest: int, highest: int) -> Values:
    """The values that the codes of `x` stand for; halves are rounded to even."""
    codes = np.clip(np.rint(x / scale) + zero, lowest, highest)
    found: Values = (codes - zero) * scale
    return found


def gradients(
    x: Values, scale: float, zero: int, lowest: int, highest: int, upstream: Values
) -> tuple[Values, float]:
    """What `fake_quantize` passes on.

    Args:
        x: B x ..., as the next four in `fake_quantize`.
        scale: As there.
        zero: As there.
        lowest: As there.
        highest: As there.
        upstream: Gradient of the loss by the result.

    Returns:
        Gradient by `x`, and by the logarithm of the scale.
    """
    by_x, by_scale = np.zeros_like(x), 0.0
    for index in np.ndindex(x.shape):
        code = np.rint(x[index] / scale) + zero
        if code < lowest:
            by_scale += upstream[index] * (lowest - zero)
        elif code > highest:
            by_scale += upstream[index] * (highest - zero)
        else:
            by_x[index] = upstream[index]
            by_scale += upstream[index] * (code - zero - x[index] / scale)
    return by_x, by_scale * scale / np.sqrt(x[0].size * highest)


def weight_scale(weight: Values, axis: int | None, highest: int) -> Values:
    """Scale of a weight as it is, to be spread over it; 1 where all is zero."""
    amax = np.asarray(largest(weight, axis), np.float64)
    scale = np.where(amax == 0, 1.0, amax / highest)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    found: Values = scale.reshape(shape)
    return found


def quantized_weight(weight: Values, axis: int | None, highest: int) -> Values:
    """A weight as the network sees it; its gradient is passed on unchanged."""
    scale = weight_scale(weight, axis, highest)
    found: Values = np.rint(weight / scale) * scale
    return found


def cross_entropy(x: Values, labels: Values) -> tuple[float, Values]:
    """-sum(labels * log softmax(x)), the softmax over axis 1, and its gradient by `x`."""
    shifted = x - x.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    slope: Values = np.exp(logs) * labels.sum(axis=1, keepdims=True) - labels
    return float(-(labels * logs).sum()), slope


@dataclass
class Adam:
    """The optimizer's memory of one parameter.

    Attributes:
        first: Running mean of the gradient.
        second: Of its square.
        steps: How many there were.
    """

    first: Values
    second: Values
    steps: int = 0

    def move(self, value: Values, gradient: Values, rate: float) -> Values:
        """The parameter after a step."""
        self.steps += 1
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2
        mean = self.first / (1 - BETAS[0] ** self.steps)
        spread = np.sqrt(self.second / (1 - BETAS[1] ** self.steps))
        found: Values = value - rate * mean / (spread + EPSILON)
        return found
