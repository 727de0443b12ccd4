"""How long graphs take on an engine: values with units that serialise and never render."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from quantcore.results.estimate import Estimate, Floats, draws

#: The share of the machine's cores that others may use before latencies are called disturbed.
QUIET = 0.1


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """How long an engine takes for a batch; the engine alone, without pre- and post-processing.

    Attributes:
        p50_ms: Median milliseconds for one batch.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        mean_ms: Arithmetic mean.
        batch_size: Images in the batch.
        images_per_second: Throughput at the mean.
        runs: Timed runs, warm-up not counted.
        low_ms: Lower end of the interval that holds the median in nine of ten cases.
        high_ms: Upper end.
        device_p50_ms: Median by the clock of the device that the engine runs on (CUDA events),
            without the copies to and from it; None where it has none. All others are wall time.
        others: Share of the machine's cores that other processes used meanwhile, 0..1; None where
            the system does not tell.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    batch_size: int
    images_per_second: float
    runs: int
    low_ms: float
    high_ms: float
    device_p50_ms: float | None = None
    others: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether other work on the machine has had a part in the figures."""
        return self.others is not None and self.others > QUIET


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Times of some graphs on one engine, measured in turns in one process.

    In each turn every graph runs once, so what slows the machine for a while slows all alike: two
    graphs are compared turn by turn.

    Attributes:
        wall_ms: Turns x graphs, milliseconds for one batch.
        device_ms: Likewise by the device's clock; None where it has none.
        batch_size: Images in the batch.
        others: See `LatencyResult`.
    """

    wall_ms: Floats
    device_ms: Floats | None
    batch_size: int
    others: float | None

    def result(self, graph: int = 0) -> LatencyResult:
        """The figures of one graph."""
        times = np.sort(self.wall_ms[:, graph])
        p50, p90, p99 = (float(p) for p in np.percentile(times, (50, 90, 99)))
        mean = float(times.mean())
        low, high = _median_interval(times)
        device = None if self.device_ms is None else float(np.median(self.device_ms[:, graph]))
        return LatencyResult(
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            mean_ms=mean,
            batch_size=self.batch_size,
            images_per_second=self.batch_size / mean * 1e3,
            runs=len(times),
            low_ms=low,
            high_ms=high,
            device_p50_ms=device,
            others=self.others,
        )

    def ratio(self, graph: int, reference: int = 0) -> Estimate:
        """A graph's time over another's, the median over the turns; below 1 it is faster.

        The interval is of a bootstrap of the turns, in which the two stay paired.
        """
        each = self.wall_ms[:, graph] / self.wall_ms[:, reference]
        picks = draws(len(each), 1000).astype(int)
        return Estimate.of(np.asarray([np.median(np.repeat(each, pick)) for pick in picks]))

    def of(self, graphs: Sequence[int]) -> Latencies:
        """Some of the graphs, in the given order; one may come again."""
        columns = list(graphs)
        device = None if self.device_ms is None else self.device_ms[:, columns]
        return replace(self, wall_ms=self.wall_ms[:, columns], device_ms=device)


def _median_interval(ordered: Floats) -> tuple[float, float]:
    """Of nine in ten, by order statistics (binomial, normal approximation)."""
    half = 1.645 * math.sqrt(len(ordered)) / 2
    low = max(math.floor((len(ordered) - 1) / 2 - half), 0)
    high = min(math.ceil((len(ordered) - 1) / 2 + half), len(ordered) - 1)
    return float(ordered[low]), float(ordered[high])
