"""How long an engine takes, and where the time of an evaluation goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from quantcore.contracts.engine import Engine
from quantcore.errors import UsageError
from quantcore.ir.model import Array
from quantcore.results.evaluation import LatencyResult
from quantcore.runtime.progress import Progress, Silent


def measure(
    engine: Engine,
    batch: Array,
    *,
    warmup: int = 10,
    runs: int = 100,
    progress: Progress | None = None,
) -> LatencyResult:
    """Times the engine on one batch, again and again.

    Args:
        engine: What is timed, from the batch in memory to the outputs in memory; and the network
            alone, where the engine's device has a clock of its own.
        batch: B x 3 x H x W.
        warmup: Runs before the clock counts.
        runs: Timed runs.
        progress: Where to report.

    Raises:
        UsageError: Fewer than one run, or a negative warm-up.
        EngineError: The engine failed.
    """
    if runs < 1 or warmup < 0:
        raise UsageError(f"latency: needs 1 run or more and no negative warm-up: {runs}, {warmup}")
    for _ in range(warmup):
        engine.infer(batch)
    seconds = np.empty(runs)
    for run in (progress or Silent()).track(range(runs), "latency"):
        began = time.perf_counter()
        engine.infer(batch)
        seconds[run] = time.perf_counter() - began
    p50, p90, p99 = (float(p) for p in np.percentile(seconds * 1e3, (50, 90, 99)))
    mean = float(seconds.mean())
    on_device = _on_device(engine, batch, runs)
    return LatencyResult(
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=mean * 1e3,
        batch_size=len(batch),
        images_per_second=len(batch) / mean,
        runs=runs,
        device_p50_ms=on_device,
    )


def _on_device(engine: Engine, batch: Array, runs: int) -> float | None:
    """Median milliseconds by the device's clock; the engine is warm."""
    timed = (engine.device_seconds(batch) for _ in range(runs))
    seconds = [found for found in timed if found is not None]
    return float(np.median(seconds)) * 1e3 if seconds else None


@dataclass
class Stopwatch:
    """Adds up the time of a stage that is entered many times.

    Attributes:
        seconds: Wall time inside `running` so far, and what was added by hand.
    """

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time inside the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

    def ms_per(self, images: int) -> float:
        """Milliseconds an image."""
        return self.seconds * 1e3 / images
