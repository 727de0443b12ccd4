"""From a calibrated range to scale and zero point: the only place where that is computed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantcore.errors import RangeError
from quantcore.policy.code import INT8, Code
from quantcore.policy.tensor import TensorPolicy
from quantcore.table.table import TensorRange


def symmetric_scale(found: TensorRange, code: Code = INT8) -> npt.NDArray[np.float32]:
    """Scale of a symmetric signed code with zero point 0.

    scale = amax / (2**(bits-1) - 1), the largest code, as in TensorRT and in Krishnamoorthi 2018
    (arXiv:1806.08342, section 2.2). The division is done in float32, as every backend's fake
    quantization does.

    A range of zero means a tensor that is constant zero (`quantcore.qdq.ranges.check_range` holds
    that): its scale is 1, which codes zero exactly and is positive, as engines demand.

    Args:
        found: Per tensor or per channel.
        code: What it is coded in.

    Returns:
        0-d or 1-d array.

    Raises:
        RangeError: A scale underflows to zero in float32, or the range has blocks.
    """
    _refuse_blocks(found)
    amax = found.amax_array.astype(np.float32)
    scale = np.asarray(amax / np.float32(code.highest(symmetric=True)), dtype=np.float32)
    if ((scale == 0) & (found.amax_array > 0)).any() or not np.isfinite(scale).all():
        raise RangeError(f"the range {found.amax} has no float32 scale")
    return np.where(found.amax_array == 0, np.float32(1), scale).astype(np.float32)


def exact_amax(found: TensorRange, code: Code = INT8) -> npt.NDArray[np.float64]:
    """The range that a symmetric scale spans, scale * (2**(bits-1) - 1), in float64.

    A fake quantization in float64 that is given it has the very scale of the Q/DQ graph.

    Args:
        found: As in `symmetric_scale`.
        code: As there.

    Raises:
        RangeError: As there.
    """
    highest = np.float64(code.highest(symmetric=True))
    exact: npt.NDArray[np.float64] = symmetric_scale(found, code) * highest
    return exact


def affine_scale(
    found: TensorRange, code: Code = INT8
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Scale and zero point of an affine unsigned code.

    scale = (high - low) / (2**bits - 1) and zero point = rint(-low / scale), both of the range
    widened to hold zero, so that zero is coded exactly (Jacob et al. 2018, arXiv:1712.05877,
    section 2.1, rounding half to even). A range of zero has scale 1 and zero point 0.

    Args:
        found: Per tensor or per channel.
        code: What it is coded in, 0..2**bits - 1.

    Returns:
        Two 0-d or 1-d arrays.

    Raises:
        RangeError: A scale underflows to zero in float32, or overflows it, or the range has blocks.
    """
    _refuse_blocks(found)
    low = np.minimum(np.asarray(found.min, dtype=np.float64), 0)
    high = np.maximum(np.asarray(found.max, dtype=np.float64), 0)
    span = high - low
    with np.errstate(over="ignore"):  # refused below
        scale = np.asarray(span / code.highest(symmetric=False), dtype=np.float32)
    if ((scale == 0) & (span > 0)).any() or not np.isfinite(scale).all():
        raise RangeError(f"the range [{found.min}, {found.max}] has no float32 scale")
    scale = np.where(span == 0, np.float32(1), scale).astype(np.float32)
    return scale, np.asarray(np.rint(-low / scale), dtype=np.int64)


def code_of(
    found: TensorRange, policy: TensorPolicy
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Scale and zero point of a range, coded as a policy says; raises RangeError."""
    if policy.symmetric:
        scale = symmetric_scale(found, policy.code)
        return scale, np.zeros(scale.shape, np.int64)
    return affine_scale(found, policy.code)


def codes_of(policy: TensorPolicy) -> tuple[int, int]:
    """Smallest and largest code of a policy: signed where it is symmetric, else unsigned."""
    return policy.code.lowest(policy.symmetric), policy.code.highest(policy.symmetric)


def quantize(
    values: npt.NDArray[np.generic],
    scale: npt.NDArray[np.float32],
    axis: int | None = None,
    code: Code = INT8,
) -> npt.NDArray[np.int8]:
    """Integer codes, as ONNX QuantizeLinear computes them: half to even, saturated.

    Args:
        values: Any shape, float.
        scale: 0-d, or 1-d along `axis`.
        axis: Channel axis of a 1-d scale.
        code: What they saturate at: `int8` at -128 and 127.
    """
    if axis is not None:
        shape = [1] * values.ndim
        shape[axis] = -1
        scale = scale.reshape(shape)
    ends = code.lowest(symmetric=True), code.highest(symmetric=True)
    codes = np.rint(values.astype(np.float32) / scale)
    saturated: npt.NDArray[np.int8] = np.clip(codes, *ends).astype(np.int8)
    return saturated


def _refuse_blocks(found: TensorRange) -> None:
    if found.block is not None:
        raise RangeError(
            f"the range has blocks of {found.block} along axis {found.axis}, which are not written "
            "yet; calibrate it per channel or per tensor"
        )
