"""The convolution in float64 against torch's own."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantcore_pytorch_quantization import convolution
from quantcore_pytorch_quantization.convolution import Conv2d
from torch.nn import functional as F

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=80, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 2),
    outputs=st.integers(1, 2),
    images=st.integers(1, 2),
    kernel=PAIRS,
    stride=PAIRS,
    dilation=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
    unfolded=st.sampled_from([1, 1000, 1 << 20]),
)
def test_it_is_the_convolution(
    groups: int,
    inputs: int,
    outputs: int,
    images: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    bias: bool,
    unfolded: int,
) -> None:
    sizes = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
    layer = Conv2d(groups * inputs, groups * outputs, kernel, bias=bias, **sizes).double()
    layer.input_quantizer.disable()
    layer.weight_quantizer.disable()
    x = torch.randn(images, groups * inputs, 9, 11, dtype=torch.float64)
    before, convolution._UNFOLDED = convolution._UNFOLDED, unfolded
    try:
        found = layer(x)
    finally:
        convolution._UNFOLDED = before
    expected = F.conv2d(x, layer.weight, layer.bias, stride, padding, dilation, groups)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.float()(x.float()), expected.float(), rtol=1e-4, atol=1e-5)


def test_its_quantizers_are_the_toolkits() -> None:
    layer = Conv2d(2, 2, 3, groups=2, bias=False).double()
    layer.input_quantizer.amax = 2.0
    layer.weight_quantizer.amax = np.full((2, 1, 1, 1), 0.5)
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    coded = F.conv2d(layer.input_quantizer(x), layer.weight_quantizer(layer.weight), groups=2)
    torch.testing.assert_close(layer(x), coded)
    assert not torch.equal(coded, F.conv2d(x, layer.weight, groups=2))
