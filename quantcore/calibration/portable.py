"""Ranges of the portable implementation: any backend's activations, one arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from quantcore.calibration.observers import range_of
from quantcore.calibration.weights import weight_range
from quantcore.contracts.observing import place
from quantcore.errors import RangeError
from quantcore.ir.model import FloatModel
from quantcore.qdq.placement import Plan
from quantcore.table.statistics import Statistics
from quantcore.table.table import TensorRange

#: Statistics by activation: one, or one for each channel.
ActivationStatistics = Mapping[str, Sequence[Statistics]]


def weight_ranges(plan: Plan, model: FloatModel) -> dict[str, TensorRange]:
    """The ranges of the plan's weights; raises PolicyError or RangeError."""
    return {
        site.tensor: weight_range(site, np.asarray(model.initializers[site.tensor]))
        for site in plan.sites
        if site.role == "weight"
    }


def activation_ranges(plan: Plan, seen: ActivationStatistics) -> dict[str, TensorRange]:
    """The ranges of the plan's activations, from what one pass over the data left behind.

    Raises:
        PolicyError: The statistics lack what an observer of the plan reads.
        RangeError: A tensor was never seen, or has no scale; names tensor and layers.
    """
    found = {}
    for site in plan.sites:
        if site.role == "activation":
            if site.tensor not in seen:
                raise RangeError(f"{place(site)}: was never computed")
            found[site.tensor] = range_of(site, seen[site.tensor])
    return found
