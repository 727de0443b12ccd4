"""The portable implementation of a calibration: any backend's activations, one arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from quantcore.calibration.observers import place, range_of
from quantcore.calibration.weights import weight_range
from quantcore.errors import RangeError
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Plan
from quantcore.table.statistics import Statistics
from quantcore.table.table import TensorRange

if TYPE_CHECKING:
    from quantcore.calibration.collector import Collector


class See(Protocol):
    """Takes in the values of an activation for one batch; see `Collector.see`."""

    def __call__(self, tensor: str, values: npt.NDArray[Any], image: int | None = None) -> None:
        """Reads the values before it returns; keeps none."""


Feed = Callable[[See], None]

#: Statistics by activation: one, or one for each channel.
Seen = Mapping[str, Sequence[Statistics]]


def observe(plan: Plan, model: FloatModel, feed: Feed) -> dict[str, TensorRange]:
    """A range for every site of the plan.

    Weights are looked at first, so that what is wrong with them is said before an image is read.

    Args:
        plan: What to observe.
        model: The float model; its initializers hold the weights.
        feed: Runs a backend's float network over all batches and calls what it is given with the
            tensor's name and values, for each activation site as it is computed.

    Raises:
        PolicyError: A policy that the portable observers cannot follow; no image was read.
        RangeError: NaN, infinite or without a scale; names tensor, layers and image.
    """
    weights = weight_ranges(plan, model)
    found = {**weights, **watch(plan, feed).ranges()}
    return {site.tensor: found[site.tensor] for site in plan.sites}


def watch(
    plan: Plan,
    feed: Feed,
    extra: Iterable[TensorPolicy] = (),
    keep_histograms: bool = False,
) -> Collector:
    """One pass over the data; the collector then gives ranges by any of the policies.

    Args:
        plan: As in `observe`.
        feed: As in `observe`.
        extra: Further policies to be ready for.
        keep_histograms: Ready for every observer that reads histograms.

    Raises:
        PolicyError: As in `observe`.
        RangeError: As in `observe`.
    """
    from quantcore.calibration.collector import Collector  # late: imports numba

    collector = Collector(plan.sites, extra, keep_histograms)
    feed(collector.see)
    return collector


def weight_ranges(plan: Plan, model: FloatModel) -> dict[str, TensorRange]:
    """The ranges of the plan's weights; raises PolicyError or RangeError."""
    return {
        site.tensor: weight_range(site, np.asarray(model.initializers[site.tensor]))
        for site in plan.sites
        if site.role == "weight"
    }


def activation_ranges(plan: Plan, seen: Seen) -> dict[str, TensorRange]:
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
