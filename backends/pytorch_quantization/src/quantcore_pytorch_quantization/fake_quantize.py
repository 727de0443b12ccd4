"""Fake quantization that passes gradients on as `quantcore.training.reference` defines them.

Not the toolkit's own: TensorQuantizer gives a range that is learned (`learn_amax`) a gradient from
clipped values alone, so that it can hardly shrink (tensor_quant.py of 2.1.3).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from quantcore.contracts.training import Coding


class FakeQuantize(torch.autograd.Function):
    """Codes and back, with a gradient for the scale."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero: int, lowest: int, highest: int, factor: float
    ) -> Tensor:
        """The values that the codes of `x` stand for.

        Args:
            ctx: Torch's.
            x: Any shape.
            scale: Of one element, or spread over `x`.
            zero: The zero point.
            lowest: Smallest code.
            highest: Largest code.
            factor: Of the scale's gradient.
        """
        ctx.save_for_backward(x, scale)
        ctx.code = zero, lowest, highest, factor
        codes = torch.round(x / scale).add_(zero).clamp_(lowest, highest)
        return codes.sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        """Gradients by `x` and by the scale."""
        x, scale = ctx.saved_tensors
        zero, lowest, highest, factor = ctx.code
        (gradient,) = upstream
        ratio = x / scale
        codes = torch.round(ratio).add_(zero)
        inside = (codes >= lowest) & (codes <= highest)
        by_scale = None
        if ctx.needs_input_grad[1]:
            steps = codes.clamp_(lowest, highest).sub_(zero)
            steps -= torch.where(inside, ratio, 0.0)
            by_scale = (gradient * steps).sum().reshape(scale.shape) * factor
        return gradient * inside, by_scale, None, None, None, None


class ActivationQuantizer(torch.nn.Module):
    """Quantizes one activation with a scale that may be shared, and learned.

    Args:
        coding: Its codes.
        log_scale: Logarithm of the scale over `coding.scale`; None where the scale stands still.
    """

    def __init__(self, coding: Coding, log_scale: Tensor | None) -> None:
        super().__init__()
        self.coding = coding
        self._log_scale = log_scale
        self._cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The values that the codes of `x` stand for."""
        coding = self.coding
        scale = torch.tensor([coding.scale], dtype=x.dtype, device=x.device)
        if self._log_scale is not None:
            scale = scale * torch.exp(self._log_scale)
        ends = coding.lowest, coding.highest
        factor = 1 / math.sqrt(x[0].numel() * coding.highest)
        if x.dtype == torch.float32:
            # The same in one pass each way; torch has it in float32 alone.
            zero = torch.tensor([float(coding.zero)], device=x.device)
            found: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
                x, scale, zero, *ends, factor
            )
            return found
        quantized: Tensor = FakeQuantize.apply(  # type: ignore[no-untyped-call]
            x, scale, coding.zero, *ends, factor
        )
        return quantized


class WeightQuantizer(torch.nn.Module):
    """Quantizes a weight symmetrically, in a range that is that of the weight as it is.

    Args:
        axis: Channel axis of the module's weight; None per tensor.
        highest: Largest code.
        scale: Spread over the weight, where the range stands still; None where it follows.
    """

    def __init__(self, axis: int | None, highest: int, scale: Tensor | None = None) -> None:
        super().__init__()
        self._axis = axis
        self._highest = highest
        self._scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The values that the codes of the weight stand for."""
        if self._scale is not None:
            ends = -self._highest - 1, self._highest
            kept: Tensor = FakeQuantize.apply(  # type: ignore[no-untyped-call]
                weight, self._scale, 0, *ends, 1.0
            )
            return kept
        found = weight.detach()
        dims = [d for d in range(found.dim()) if d != self._axis]
        amax = found.abs().amax(dims, keepdim=True)
        scale = torch.where(amax == 0, 1.0, amax / self._highest)
        # Nothing is clipped: the gradient is the identity's.
        return weight + (torch.round(found / scale) * scale - found)
