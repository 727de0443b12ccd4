"""The toolkit's quantized convolution, quick in float64 as well."""

from __future__ import annotations

import torch
from pytorch_quantization import nn as quant_nn
from torch import Tensor
from torch.nn import functional as F

#: Bytes that torch may unfold at once: what stays in a processor's cache.
_UNFOLDED = 6 * 2**20


class Conv2d(quant_nn.QuantConv2d):  # type: ignore[misc]
    """A QuantConv2d.

    For float64 torch has no convolution of its own on a CPU. Unless the kernel is 1 x 1, it copies
    what each output reads next to each other and multiplies matrices: 88 MB for the first layer of
    YOLOv5n, and one product for each channel of a depthwise layer, 2,000 in an image of YOLOX-nano.
    Bands of rows that stay in the cache save a third of YOLOv5n's time, adding up a depthwise
    kernel tap by tap nearly half of YOLOX-nano's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of B x C x H x W, through the quantizers in place."""
        if x.dtype != torch.float64 or x.is_cuda or self.kernel_size == (1, 1):
            convolved: Tensor = super().forward(x)
            return convolved
        x, weight = self._quant(x)
        top, left = self.padding
        x = F.pad(x, (left, left, top, top)) if top or left else x
        if self.groups > 1 and tuple(weight.shape[:2]) == (self.groups, 1):
            return self._by_taps(x, weight)
        return self._by_bands(x, weight)

    def _size(self, x: Tensor) -> tuple[int, ...]:
        """Height and width of what a padded input becomes."""
        kernel = zip(x.shape[2:], self.kernel_size, self.dilation, self.stride, strict=True)
        return tuple((size - d * (k - 1) - 1) // step + 1 for size, k, d, step in kernel)

    def _by_bands(self, x: Tensor, weight: Tensor) -> Tensor:
        height, width = self._size(x)
        row = x.element_size() * len(x) * weight[0].numel() * width  # groups come in turn
        rows = max(_UNFOLDED // row, 1)
        reach, step = self.dilation[0] * (self.kernel_size[0] - 1) + 1, self.stride[0]
        bands = [
            F.conv2d(
                x[:, :, first * step : (min(first + rows, height) - 1) * step + reach],
                weight,
                self.bias,
                self.stride,
                dilation=self.dilation,
                groups=self.groups,
            )
            for first in range(0, height, rows)
        ]
        return bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)

    def _by_taps(self, x: Tensor, weight: Tensor) -> Tensor:
        height, width = self._size(x)
        (tall, wide), (down, across) = self.dilation, self.stride
        shape = (len(x), len(weight), height, width)
        bias = x.new_zeros(1) if self.bias is None else self.bias
        found = bias.view(-1, 1, 1).expand(shape).clone()
        for i in range(self.kernel_size[0]):
            rows = x[:, :, tall * i :: down][:, :, :height]
            for j in range(self.kernel_size[1]):
                seen = rows[..., wide * j :: across][..., :width]
                found.addcmul_(seen, weight[:, :, i, j, None])
        return found
