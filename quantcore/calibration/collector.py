"""Watching activations: one pass over the data serves every observer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.calibration import moving_average
from quantcore.calibration.counting import Counter, extremes
from quantcore.calibration.observers import BINNED, check_policy, range_of
from quantcore.contracts.observing import place
from quantcore.errors import RangeError, TableError
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.table.histogram import Histogram
from quantcore.table.statistics import Statistics
from quantcore.table.table import TensorRange

Values = npt.NDArray[np.float32]

FORMAT = "quantcore.statistics/1"


class Collector:
    """Statistics of activation sites, in memory that the number of images does not change."""

    def __init__(
        self,
        sites: Iterable[Site],
        extra: Iterable[TensorPolicy] = (),
        keep_histograms: bool = False,
    ) -> None:
        """Prepares to watch; refuses what the portable observers cannot do.

        Args:
            sites: What to watch; sites of weights are passed over.
            extra: Other policies that `ranges` will be asked for, beside each site's own.
            keep_histograms: Keeps a histogram where no observer reads one, and the extremes of each
                image: what any observer needs later.

        Raises:
            PolicyError: A policy that the portable observers cannot follow.
        """
        self.sites = {site.tensor: site for site in sites if site.role == "activation"}
        self._seen: dict[str, list[Statistics]] = {}
        self._extra = tuple(extra)
        self._keep = keep_histograms
        self._counter = Counter()
        for policy in (*(site.policy for site in self.sites.values()), *self._extra):
            check_policy(policy)

    def see(self, tensor: str, values: npt.NDArray[Any], image: int | None = None) -> None:
        """Takes in an activation of one batch.

        Args:
            tensor: Name of a site's tensor.
            values: First axis: images. Read before this returns, so that a framework may overwrite
                them; not kept.
            image: Number of the batch's first image, for messages; None counts by itself.

        Raises:
            RangeError: NaN or infinite; names tensor, layers and image.
        """
        site = self.sites[tensor]
        batch = np.atleast_1d(np.asarray(values, dtype=np.float32))
        if tensor not in self._seen:
            channels = 1 if site.axis is None else batch.shape[site.axis]
            self._seen[tensor] = [self._statistics(site) for _ in range(channels)]
        seen = self._seen[tensor]
        first = seen[0].images if image is None else image
        if site.axis is None:
            self._add(site, seen[0], batch, first)
            return
        if batch.shape[site.axis] != len(seen):
            raise RangeError(
                f"{place(site)}: {batch.shape[site.axis]} channels in image {first}, "
                f"{len(seen)} before"
            )
        for channel, statistics in enumerate(seen):
            self._add(site, statistics, np.take(batch, channel, axis=site.axis), first)

    def ranges(self, policy: TensorPolicy | None = None) -> dict[str, TensorRange]:
        """A range for every site, in the order of the sites.

        Args:
            policy: Another observer for all sites; its bits and symmetry count, the granularity
                stays that of the site.

        Raises:
            RangeError: A site without values, or without a range; names tensor and layers.
        """
        for site in self.sites.values():
            if site.tensor not in self._seen:
                raise RangeError(f"{place(site)}: was never computed")

        return {name: range_of(site, self._seen[name], policy) for name, site in self.sites.items()}

    @property
    def seen(self) -> dict[str, tuple[Statistics, ...]]:
        """By tensor: one, or one for each channel."""
        return {name: tuple(seen) for name, seen in self._seen.items()}

    def histograms(self) -> dict[str, list[Histogram]]:
        """By tensor, where they were kept: one, or one for each channel."""
        return {
            name: [s.histogram for s in seen if s.histogram is not None]
            for name, seen in self._seen.items()
            if seen[0].histogram is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON form of everything seen; `from_dict` finds the same ranges without the data."""
        tensors = {name: [s.to_dict() for s in seen] for name, seen in self._seen.items()}
        return {"format": FORMAT, "tensors": tensors}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], sites: Iterable[Site]) -> Collector:
        """Reads the JSON form for the same sites, whatever their policy is now.

        Raises:
            TableError: Not in this format, or malformed.
            PolicyError: As in the constructor.
        """
        if data.get("format") != FORMAT:
            raise TableError(f"not statistics of format {FORMAT}")
        collector = cls(sites)
        for name, seen in data["tensors"].items():
            if name in collector.sites:
                try:
                    collector._seen[name] = [Statistics.from_dict(s) for s in seen]
                except TableError as error:
                    raise TableError(f"tensor {name!r}: {error}") from None
        return collector

    def _statistics(self, site: Site) -> Statistics:
        policies = (site.policy, *self._extra)
        momenta = {moving_average.momentum(p) for p in policies if p.observer == "moving_average"}
        binned = self._keep or any(p.observer in BINNED for p in policies)
        return Statistics.watching(binned, sorted(momenta), extremes=self._keep)

    def _add(self, site: Site, seen: Statistics, batch: Values, first: int) -> None:
        for number in range(len(batch)):
            values = batch[number : number + 1].ravel(order="K")  # a view, in any order of axes
            low, high = math.inf, -math.inf
            if values.size:
                low, high = extremes(values)
                if not (math.isfinite(low) and math.isfinite(high)):
                    nan = bool(np.isnan(values).any())
                    raise RangeError.not_finite(place(site), nan, first + number)
                if seen.histogram is not None:
                    self._counter.count(seen.histogram, values, low, high)
            seen.add(low, high)
