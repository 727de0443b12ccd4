"""Holding a calibrated range against the tensor that it is for."""

from __future__ import annotations

import numpy as np

from quantcore.errors import RangeError
from quantcore.ir.model import FloatModel
from quantcore.qdq.placement import Site
from quantcore.table.table import TensorRange


def check_range(
    site: Site, found: TensorRange, model: FloatModel, implementation: str = "native"
) -> None:
    """Holds a range against its site.

    Zero is allowed where it is proven: the max observer, or any of the portable ones (which know
    the exact extremes), saw nothing else, or a weight channel is constant zero. Such a tensor is
    coded with scale 1, which is exact.

    Raises:
        RangeError: Not positive without that proof, or shaped unlike the site.
    """
    where = f"{site.role} {site.tensor!r} of layer {', '.join(site.consumers)}"
    if found.role != site.role or found.axis != site.axis:
        raise RangeError(
            f"{where}: wanted a {site.role} range with axis {site.axis}, got a {found.role} "
            f"range with axis {found.axis}"
        )
    if found.block is not None:
        raise RangeError(
            f"{where}: got a range with blocks of {found.block}, which are not written yet; "
            "calibrate it per channel or per tensor"
        )
    amax = np.atleast_1d(found.amax_array)
    zero = amax <= 0
    if site.role == "weight":
        weight = model.initializers[site.tensor]
        magnitude = np.abs(weight).astype(np.float64)
        if site.axis is not None:
            other = tuple(i for i in range(weight.ndim) if i != site.axis)
            magnitude = magnitude.max(axis=other)
        else:
            magnitude = magnitude.max(keepdims=True).reshape(1)
        if len(magnitude) != len(amax):
            raise RangeError(f"{where}: {len(amax)} ranges for {len(magnitude)} channels")
        zero &= magnitude > 0
    elif implementation == "portable" or site.policy.observer == "max":
        zero[:] = False
    if zero.any():
        raise RangeError(
            f"{where}: the range is not positive although the tensor is not constant zero "
            f"(observer {site.policy.observer!r}); give the layer observer max or "
            "`quantize: false`"
        )
