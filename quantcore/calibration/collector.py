"""Watching activations: one pass over the data serves every observer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.calibration import moving_average
from quantcore.calibration.counting import BLOCK, Counter, Flat, Part
from quantcore.calibration.histogram import MIN_EXPONENT, Histogram
from quantcore.calibration.observers import BINNED, check_policy, place, range_of
from quantcore.calibration.statistics import Statistics
from quantcore.errors import RangeError, TableError
from quantcore.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.table import TensorRange

Values = npt.NDArray[np.float32]

FORMAT = "quantcore.statistics/1"
#: Smallest share of a tensor that is worth handing to another thread (about 30 us of work).
_SHARE = 1 << 16


class Collector:
    """Statistics of activation sites, in memory that the number of images does not change.

    A context manager: it may own threads, among which it divides each tensor, and returns from
    `see` when the tensor is done, so that a framework may overwrite it.
    """

    def __init__(
        self,
        sites: Iterable[Site],
        extra: Iterable[TensorPolicy] = (),
        keep_histograms: bool = False,
        threads: int | None = None,
    ) -> None:
        """Prepares to watch; refuses what the portable observers cannot do.

        Args:
            sites: What to watch; sites of weights are passed over.
            extra: Other policies that `ranges` will be asked for, beside each site's own.
            keep_histograms: Keeps a histogram where no observer reads one, and the extremes of each
                image: what any observer needs later.
            threads: How many threads count, this one included; None for one on each core but one:
                a framework's own threads spin for a while after each operation, and on two cores
                a second thread that counts was seen to lose more to them than it won.

        Raises:
            PolicyError: A policy that the portable observers cannot follow.
        """
        self.sites = {site.tensor: site for site in sites if site.role == "activation"}
        self._seen: dict[str, list[Statistics]] = {}
        self._extra = tuple(extra)
        self._keep = keep_histograms
        for policy in (*(site.policy for site in self.sites.values()), *self._extra):
            check_policy(policy)
        self._threads = threads or max(_cores() - 1, 1)
        self._counters = [Counter() for _ in range(self._threads)]
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None

    def see(self, tensor: str, values: npt.NDArray[Any], image: int | None = None) -> None:
        """Takes in an activation of one batch.

        Args:
            tensor: Name of a site's tensor.
            values: First axis: images. Read, not kept.
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

        def find(site: Site) -> TensorRange:
            return range_of(site, self._seen[site.tensor], policy)

        sites = self.sites.values()
        found = self._pool.map(find, sites) if self._pool else map(find, sites)
        return dict(zip(self.sites, found, strict=True))

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
        collector = cls(sites, threads=1)
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
        flat = _flat(batch)
        parts = self._parts(flat, seen.histogram) if flat.size else []
        if not all(part.finite for part in parts):
            raise RangeError(f"{place(site)}: {_culprit(batch, first)}; check the weights")
        if seen.by_image:
            for image in batch:
                seen.add(1, *_extremes(image))
        else:
            low = min((part.low for part in parts), default=np.inf)
            seen.add(len(batch), low, max((part.high for part in parts), default=-np.inf))
        for part in parts:
            if seen.histogram is not None and part.counts is not None:
                seen.histogram.add_codes(part.exponent, part.counts, part.low, part.high)

    def _parts(self, flat: Flat, histogram: Histogram | None) -> list[Part]:
        """Counts and extremes of a tensor, its parts counted side by side."""
        shares = max(-(-flat.size // BLOCK), min(self._threads, flat.size // _SHARE), 1)
        size = -(-flat.size // shares)
        blocks = [flat[i : i + size] for i in range(0, flat.size, size)]
        exponent = MIN_EXPONENT if histogram is None else histogram.exponent

        waiting = iter(blocks)  # each thread takes the next block when it is free

        def work(counter: Counter) -> list[Part]:
            if histogram is None:
                return [counter.extremes(block) for block in waiting]
            return counter.count(waiting, exponent)

        own, *others = self._counters[: len(blocks)]
        busy = [self._pool.submit(work, other) for other in others] if self._pool else []
        return [*work(own), *(part for other in busy for part in other.result())]

    def close(self) -> None:
        """Ends the threads; safe to call twice. Ranges can still be asked for."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> Collector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _flat(values: Values) -> Flat:
    """All values in memory order: a view where they lie side by side in any axis order."""
    order: Sequence[int] = np.argsort([-abs(s) for s in values.strides], kind="stable").tolist()
    flat: Flat = values.transpose(order).reshape(-1)
    return flat


def _extremes(values: Values) -> tuple[float, float]:
    """Smallest and largest value; reversed where there is none."""
    return (float(values.min()), float(values.max())) if values.size else (np.inf, -np.inf)


def _culprit(batch: Values, first: int) -> str:
    """Which image holds the first value that is not finite, and what it is."""
    for number, image in enumerate(batch, first):
        if not np.isfinite(image).all():
            what = "NaN" if np.isnan(image).any() else "infinite"
            return f"{what} in image {number} (counted from 0 in the order of calibration)"
    return "NaN or infinite"
