"""Paddle's quantized layers and its Q/DQ pair, which simulate what a table does to a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.nn import functional as F
from paddle.nn.quant.format import (
    ConvertibleQuantedLayer,
    LinearDequanter,
    LinearQuanter,
    LinearQuanterDequanter,
)
from paddle.nn.quant.qat.conv import QuantedConv2D
from paddle.nn.quant.qat.linear import QuantedLinear
from paddle.quantization.config import SingleLayerConfig
from paddle.quantization.factory import QuanterFactory


def quanter_dequanter(
    amax: npt.NDArray[np.float64], axis: int | None, bits: int
) -> paddle.nn.Layer:
    """Paddle's Q/DQ pair with a loaded range: half to even, saturated at -128 and 127.

    It is what `PTQ.convert` leaves at a quantized tensor. The older fake quantization of
    ImperativePTQ rounds half away from zero and stops at -127.

    Args:
        amax: 0-d, or one for each channel.
        axis: Channel axis of the Paddle tensor, None per tensor.
        bits: Width of the code.
    """
    # Zero is constant zero; scale 1 codes that exactly, as in the shared graph.
    scales = np.where(amax == 0, 2 ** (bits - 1) - 1, amax).astype(np.float32)
    zero = np.zeros_like(scales)
    with paddle.utils.unique_name.guard():
        return LinearQuanterDequanter(
            LinearQuanter(scales, zero, axis, bits), LinearDequanter(scales, zero, axis, bits)
        )


class QuanterDequanter64(paddle.nn.Layer):  # type: ignore[misc]
    """Paddle's Q/DQ pair in float64, for which Paddle has no kernel.

    It means what `LinearQuanterDequanter` means: codes are rint(x * factor), saturated at
    -2**(bits-1) and 2**(bits-1) - 1, and stand for code / factor, where factor = 1 / scale. Tests
    hold it against Paddle's own.

    Args:
        scale: 0-d, or one for each channel.
        axis: Channel axis of the Paddle tensor, None per tensor.
        bits: Width of the code.
    """

    def __init__(self, scale: npt.NDArray[np.float32], axis: int | None, bits: int) -> None:
        super().__init__()
        self._limit = 2 ** (bits - 1)
        self._axis = axis
        # A factor, not a quotient, as in pytorch-quantization: where a value lies halfway between
        # two codes, the last bit of float64 decides.
        self._factor = paddle.to_tensor(1 / scale.astype(np.float64))

    def forward(self, x: Any) -> Any:
        """The values that the codes of `x` stand for."""
        factor = self._factor
        if self._axis is not None:
            shape = [1] * x.ndim
            shape[self._axis] = -1
            factor = factor.reshape(shape)
        return paddle.clip(paddle.round(x * factor), -self._limit, self._limit - 1) / factor


def weight_axis(layer: paddle.nn.Layer) -> int:
    """Axis of the output channels in a Paddle layer's weight."""
    return 1 if isinstance(layer, paddle.nn.Conv2DTranspose | paddle.nn.Linear) else 0


def quanted(layer: paddle.nn.Layer, weight_quantizer: paddle.nn.Layer) -> paddle.nn.Layer:
    """Paddle's quantized form of a layer, on the same parameters."""
    kind = next(form for plain, form in _FORMS.items() if isinstance(layer, plain))
    with paddle.utils.unique_name.guard():
        return kind(layer, SingleLayerConfig(None, _Ready(weight_quantizer)))


class _Ready(QuanterFactory):  # type: ignore[misc]
    """A quantizer that is already made, where Paddle's configuration wants to make one."""

    def __init__(self, quantizer: paddle.nn.Layer) -> None:
        super().__init__()
        self._quantizer = quantizer

    def _get_class(self) -> type:
        return type(self._quantizer)

    def _instance(self, layer: paddle.nn.Layer) -> paddle.nn.Layer:
        return self._quantizer


class QuantedConv2DTranspose(ConvertibleQuantedLayer):  # type: ignore[misc]
    """Conv2DTranspose with a quantized weight.

    Paddle has one for Conv2D and for Linear alone (nn/quant/qat of 3.3.1); this is its customized
    quantized layer, for `QuantConfig.add_qat_layer_mapping` as well.
    """

    def __init__(self, layer: paddle.nn.Conv2DTranspose, q_config: SingleLayerConfig) -> None:
        super().__init__()
        self._geometry = {
            "stride": layer._stride,
            "padding": layer._padding,
            "output_padding": layer.output_padding,
            "dilation": layer._dilation,
            "groups": layer._groups,
            "data_format": layer._data_format,
        }
        self.weight = layer.weight
        self.bias = layer.bias
        quantizers = {"weight": q_config.weight, "activation": q_config.activation}
        made = {k: q._instance(layer) if q is not None else None for k, q in quantizers.items()}
        self.weight_quanter = made["weight"]
        self.activation_quanter = made["activation"]

    def forward(self, x: Any) -> Any:
        """The transposed convolution of quantized operands."""
        weight = self.weight
        if self.activation_quanter is not None:
            x = self.activation_quanter(x)
        if self.weight_quanter is not None:
            weight = self.weight_quanter(weight)
        return F.conv2d_transpose(x, weight, bias=self.bias, **self._geometry)

    def weights_to_quanters(self) -> list[tuple[str, str]]:
        """See ConvertibleQuantedLayer."""
        return [("weight", "weight_quanter")]

    def activation_quanters(self) -> list[str]:
        """See ConvertibleQuantedLayer."""
        return ["activation_quanter"]


_FORMS: dict[type, type] = {
    paddle.nn.Conv2D: QuantedConv2D,
    paddle.nn.Conv2DTranspose: QuantedConv2DTranspose,
    paddle.nn.Linear: QuantedLinear,
}
