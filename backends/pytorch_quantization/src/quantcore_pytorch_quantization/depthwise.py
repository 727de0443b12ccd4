"""Depthwise convolutions in float64."""

from __future__ import annotations

import torch
from pytorch_quantization import nn as quant_nn
from torch import Tensor
from torch.nn import functional as F


class QuantDepthwise2d(quant_nn.QuantConv2d):  # type: ignore[misc]
    """A QuantConv2d of one input and one output channel in each group.

    For float64 torch has no kernel of its own for them on a CPU: it multiplies matrices channel by
    channel, 2,000 times in an image of YOLOX-nano, half of a pass. Adding the products up tap by
    tap takes a third of that.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As QuantConv2d: B x C x H x W."""
        if x.dtype != torch.float64 or x.is_cuda:
            convolved: Tensor = super().forward(x)
            return convolved
        x, weight = self._quant(x)
        (top, left), (down, across) = self.padding, self.stride
        x = F.pad(x, (left, left, top, top))
        rows, columns = (
            range(0, self.dilation[axis] * self.kernel_size[axis], self.dilation[axis])
            for axis in (0, 1)
        )
        height = (x.shape[2] - rows[-1] - 1) // down + 1
        width = (x.shape[3] - columns[-1] - 1) // across + 1
        shape = (len(x), len(weight), height, width)
        if self.bias is None:
            found = x.new_zeros(shape)
        else:
            found = self.bias.view(-1, 1, 1).expand(shape).clone()
        for i, row in enumerate(rows):
            lines = x[:, :, row : row + down * (height - 1) + 1 : down]
            for j, column in enumerate(columns):
                seen = lines[..., column : column + across * (width - 1) + 1 : across]
                found.addcmul_(seen, weight[:, :, i, j, None])
        return found
