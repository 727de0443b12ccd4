"""Fake quantization that passes gradients on as `quantcore.training.reference` defines them.

Not Paddle's own: FakeQuanterWithAbsMaxObserver passes the gradient of clipped values on as well,
and LinearQuanterDequanter none at all (3.3.1).
"""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle.autograd import PyLayer

from quantcore.contracts.training import Coding

Tensor = Any


class FakeQuantize(PyLayer):  # type: ignore[misc]
    """Codes and back, with a gradient for the scale."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero: int, lowest: int, highest: int, factor: float
    ) -> Tensor:
        """The values that the codes of `x` stand for.

        Args:
            ctx: Paddle's.
            x: Any shape.
            scale: Of one element, or spread over `x`.
            zero: The zero point.
            lowest: Smallest code.
            highest: Largest code.
            factor: Of the scale's gradient.
        """
        ctx.save_for_backward(x, scale)
        ctx.code = lowest - zero, highest - zero, factor
        ctx.wanted = not x.stop_gradient, not scale.stop_gradient
        return paddle.clip(paddle.round(x / scale), lowest - zero, highest - zero) * scale

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Gradients by `x` and by the scale."""
        x, scale = ctx.saved_tensor()
        lowest, highest, factor = ctx.code
        ratio = x / scale
        codes = paddle.round(ratio)
        inside = paddle.logical_and(codes >= lowest, codes <= highest).astype(x.dtype)
        passed = upstream * inside if ctx.wanted[0] else None
        if not ctx.wanted[1]:
            return passed, None
        steps = paddle.clip(codes, lowest, highest) - ratio * inside
        return passed, (upstream * steps).sum().reshape(scale.shape) * factor


class ActivationQuantizer:
    """Quantizes one activation with a scale that may be shared, and learned.

    Args:
        coding: Its codes.
        log_scale: Logarithm of the scale over `coding.scale`; None where the scale stands still.
    """

    def __init__(self, coding: Coding, log_scale: Tensor | None) -> None:
        self._coding = coding
        self._log_scale = log_scale

    def __call__(self, x: Tensor) -> Tensor:
        """The values that the codes of `x` stand for."""
        coding = self._coding
        scale = paddle.full([1], coding.scale, dtype=x.dtype)
        if self._log_scale is not None:
            scale = scale * paddle.exp(self._log_scale)
        factor = 1 / math.sqrt(math.prod(x.shape[1:]) * coding.highest)
        return FakeQuantize.apply(x, scale, coding.zero, coding.lowest, coding.highest, factor)


class WeightQuantizer(paddle.nn.Layer):  # type: ignore[misc]
    """Quantizes a weight symmetrically, in a range that is that of the weight as it is.

    Args:
        axis: Channel axis of the layer's weight; None per tensor.
        highest: Largest code.
        scale: Spread over the weight, where the range stands still; None where it follows.
    """

    def __init__(self, axis: int | None, highest: int, scale: Tensor | None = None) -> None:
        super().__init__()
        self._axis = axis
        self._highest = highest
        self._fixed = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The values that the codes of the weight stand for."""
        if self._fixed is not None:
            ends = -self._highest - 1, self._highest
            return FakeQuantize.apply(weight, self._fixed, 0, *ends, 1.0)
        found = weight.detach()
        axes = [a for a in range(found.ndim) if a != self._axis]
        amax = found.abs().max(axis=axes, keepdim=True)
        scale = paddle.where(amax == 0, paddle.ones_like(amax), amax / self._highest)
        # Nothing is clipped: the gradient is the identity's.
        return weight + (paddle.round(found / scale) * scale - found)
