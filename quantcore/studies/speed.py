"""Which of the sets of layers that meet a target is the fastest on an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quantcore.analysis.agreement import noise
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.evaluation.latency import LatencyTest, latencies
from quantcore.results.latency import Latencies
from quantcore.results.mixed import Mixed, Point, Speed
from quantcore.runtime.jobs import Runtime
from quantcore.studies.keep import keeping
from quantcore.studies.sensitivity import StudiedModel

#: Sets of layers that are timed where the search has found so many; all are in memory at a time.
SETS = 16

#: Timed runs of each graph.
ROUNDS = 40


def fastest(
    studied: StudiedModel,
    found: Mixed,
    engine: str,
    runtime: Runtime,
    *,
    rounds: int = ROUNDS,
) -> Mixed:
    """Times what a search found on an engine, and takes the fastest set that meets the target.

    Where a number of layers was asked for, the chosen set stays as it is.

    Whole graphs are timed. What a single layer gains in INT8 is no sum to be had: engines fuse
    layers, convert between them where the precision changes, and a layer's share of the time is
    below the noise.

    Args:
        studied: Model, table, policy.
        found: Of the search; what it shows is timed, and more sets that meet the target.
        engine: Engine name.
        runtime: Where it is done and kept.
        rounds: Timed runs of each graph.

    Raises:
        EngineError: The engine refuses a graph.
    """
    plugin = load_engine(engine)
    points = _candidates(found)
    protos = [studied.candidate("", keeping(studied.policy, p.kept)).proto for p in points]
    test = LatencyTest(batch=noise(studied.model), runs=rounds)
    graphs = (studied.model.proto, *protos)
    times = latencies(engine, EngineOptions(), graphs, test, runtime)
    timed = {
        p.kept: replace(p, latency=times.result(n), latency_ratio=times.ratio(n))
        for n, p in enumerate(points, 1)
    }
    speed = Speed(
        engine=engine,
        versions=dict(plugin.versions()),
        runs=rounds,
        whole=times.result(),
        caveat=plugin.caveat(),
    )
    chosen = timed[found.chosen.kept]
    if found.top is None and found.met:
        good = [n for n, p in enumerate(points, 1) if meets(p, found)]
        chosen = timed[points[_fastest(times, good, points) - 1].kept]
    return replace(
        found,
        points=tuple(timed.get(p.kept, p) for p in found.points),
        chosen=chosen,
        policy=keeping(studied.policy, chosen.kept),
        speed=speed,
    )


def meets(point: Point, found: Mixed) -> bool:
    """Whether a point is within the search's limits."""
    return point.drop <= found.max_drop and point.share >= found.min_int8


def _candidates(found: Mixed) -> list[Point]:
    """The chosen point, what is shown, and sets that meet the target, of all costs in MACs."""
    first = list(dict.fromkeys((found.chosen, *found.shown)))
    others = [p for p in found.points if p not in first and meets(p, found)]
    left = max(SETS - len(first), 0)
    picks = np.unique(np.linspace(0, len(others) - 1, min(left, len(others))).astype(int))
    return [*first, *(others[pick] for pick in picks)]


def _fastest(times: Latencies, graphs: Sequence[int], points: Sequence[Point]) -> int:
    """Of the graphs that cannot be told from the fastest, the one with the most in INT8.

    Args:
        times: Of the float model and of the points, in that order.
        graphs: Which to choose from.
        points: The sets.
    """
    best = min(graphs, key=lambda n: times.result(n).p50_ms)
    equal = [n for n in graphs if n == best or times.ratio(n, best).low <= 1]
    return min(equal, key=lambda n: _by_share(points[n - 1]))


def _by_share(point: Point) -> tuple[float, int, float]:
    return -point.share, len(point.kept), point.drop
