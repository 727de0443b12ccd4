"""From a calibrated range to scale and zero point: the only place where that is computed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantcore.errors import RangeError
from quantcore.table import TensorRange


def symmetric_scale(found: TensorRange, bits: int = 8) -> npt.NDArray[np.float32]:
    """Scale of a symmetric signed code with zero point 0.

    scale = amax / (2**(bits-1) - 1), as in TensorRT and in Krishnamoorthi 2018 (arXiv:1806.08342,
    section 2.2). The division is done in float32, as every backend's fake quantization does.

    A range of zero means a tensor that is constant zero (`quantcore.backend.check_range` holds
    that): its scale is 1, which codes zero exactly and is positive, as engines demand.

    Args:
        found: Per tensor or per channel.
        bits: Width of the code, 2..8.

    Returns:
        0-d or 1-d array.

    Raises:
        RangeError: A scale underflows to zero in float32.
    """
    amax = found.amax_array.astype(np.float32)
    scale = np.asarray(amax / np.float32(2 ** (bits - 1) - 1), dtype=np.float32)
    if ((scale == 0) & (found.amax_array > 0)).any() or not np.isfinite(scale).all():
        raise RangeError(f"the range {found.amax} has no float32 scale")
    return np.where(found.amax_array == 0, np.float32(1), scale).astype(np.float32)


def quantize(
    values: npt.NDArray[np.generic],
    scale: npt.NDArray[np.float32],
    axis: int | None = None,
    bits: int = 8,
) -> npt.NDArray[np.int8]:
    """Integer codes, as ONNX QuantizeLinear computes them: half to even, saturated.

    Args:
        values: Any shape, float.
        scale: 0-d, or 1-d along `axis`.
        axis: Channel axis of a 1-d scale.
        bits: Width of the code; 8 saturates at -128 and 127.
    """
    if axis is not None:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
    limit = 2 ** (bits - 1)
    codes = np.rint(values.astype(np.float32) / scale)
    saturated: npt.NDArray[np.int8] = np.clip(codes, -limit, limit - 1).astype(np.int8)
    return saturated
