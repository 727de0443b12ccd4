"""How long graphs take on an engine, and where the time of an evaluation goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import onnx

import quantcore
from quantcore.contracts import registry
from quantcore.contracts.engine import Engine, EngineOptions
from quantcore.errors import UsageError
from quantcore.ir.model import Array
from quantcore.results.estimate import Floats
from quantcore.results.latency import Latencies
from quantcore.runtime.host import OtherWork
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, graph_digest
from quantcore.runtime.progress import Progress, Silent

#: Of what kept times mean; a change of it makes all that is on disk obsolete.
REVISION = 1


@dataclass(frozen=True, kw_only=True)
class LatencyTest:
    """How latency is measured.

    Attributes:
        batch: The network input, 1 x 3 x H x W.
        warmup: Inferences of each graph before.
        runs: Inferences of each that are timed.
    """

    batch: Array
    warmup: int = 5
    runs: int = 50

    def __post_init__(self) -> None:
        """Raises UsageError for fewer than one run, or a negative warm-up."""
        if self.runs < 1 or self.warmup < 0:
            raise UsageError(
                f"latency: needs 1 run or more and no negative warm-up: {self.runs}, {self.warmup}"
            )


def latencies(
    engine: str,
    options: EngineOptions,
    graphs: Sequence[onnx.ModelProto],
    test: LatencyTest,
    runtime: Runtime,
) -> Latencies:
    """Times graphs that are to be compared, all in one process, in turns.

    Graphs that are equal are timed as one: they differ by nothing that could be measured.

    Args:
        engine: Engine name.
        options: How each graph is built.
        graphs: All are in memory at a time.
        test: What they are run on, and how often.
        runtime: Where it is done and kept.

    Raises:
        EngineError: The engine refuses a graph.
    """
    digests = [graph_digest(graph) for graph in graphs]
    unique = dict(zip(digests, graphs, strict=True))
    versions = dict(registry.load_engine(engine).versions())
    about = (quantcore.__version__, engine, versions, options, list(unique))
    needs = registry.needed(registry.ENGINES, engine)
    run = (test.batch.shape, test.warmup, test.runs, runtime.host(needs))
    key = content_key("latencies", REVISION, about, run)
    given = (engine, options, tuple(unique.values()), test)
    what = f"latency on {engine}"
    found = runtime.one(whole(what, key, Latencies, _timed, *given, quiet=True, needs=needs))
    order = list(unique)
    return found.of([order.index(digest) for digest in digests])


def _timed(
    engine: str,
    options: EngineOptions,
    graphs: Sequence[onnx.ModelProto],
    test: LatencyTest,
    progress: Progress,
) -> Latencies:
    plugin = registry.load_engine(engine)
    with ExitStack() as stack:
        engines = [stack.enter_context(plugin.build(graph, options)) for graph in graphs]
        return measure(engines, test, progress, f"latency on {engine}")


def measure(
    engines: Sequence[Engine],
    test: LatencyTest,
    progress: Progress | None = None,
    title: str = "latency",
) -> Latencies:
    """Times engines in turns, from the batch in memory to the outputs in memory.

    In a turn the engines come in another order each time, and each runs once uncounted right before
    it is timed: what the one before left behind, its data in the caches and its threads still
    spinning, would be counted with whoever comes next.

    Args:
        engines: What is timed.
        test: What they are run on, and how often.
        progress: Where to report.
        title: Of the report.

    Raises:
        EngineError: An engine failed.
    """
    for engine in engines:
        for _ in range(test.warmup):
            engine.infer(test.batch)
    wall, device = (np.full((test.runs, len(engines)), np.nan) for _ in range(2))
    order = np.random.default_rng(0)
    with OtherWork() as others:
        for turn in (progress or Silent()).track(range(test.runs), title):
            for number in order.permutation(len(engines)):
                if len(engines) > 1:
                    engines[number].infer(test.batch)
                began = time.perf_counter()
                engines[number].infer(test.batch)
                wall[turn, number] = time.perf_counter() - began
                device[turn, number] = engines[number].device_seconds(test.batch) or np.nan
    return Latencies(
        wall_ms=wall * 1e3,
        device_ms=_known(device * 1e3),
        batch_size=len(test.batch),
        others=others.share,
    )


def _known(times: Floats) -> Floats | None:
    return times if np.isfinite(times).all() else None


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
