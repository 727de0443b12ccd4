"""Which of the sets of layers that meet a target is the fastest on an engine."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import onnx

from quantcore.analysis.agreement import noise
from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.registry import load_engine
from quantcore.ir.model import Array
from quantcore.results.mixed import Mixed, Point, Speed, Timing
from quantcore.runtime.host import host
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, graph_digest
from quantcore.runtime.progress import Progress, Silent
from quantcore.studies.keep import keeping
from quantcore.studies.sensitivity import StudiedModel

#: Sets of layers that are timed where the search has found so many; all are in memory at a time.
SETS = 16

#: Timed runs of each graph, and runs before.
ROUNDS, WARMUP = 40, 3

#: Of what kept times mean; a change of it makes all that is on disk obsolete.
REVISION = 1


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
    graphs = (studied.model.proto, *protos)
    digests = [graph_digest(graph) for graph in graphs]
    key = content_key("times", REVISION, engine, dict(plugin.versions()), digests, rounds, host())
    given = (engine, graphs, noise(studied.model), rounds)
    kind = tuple[Timing, ...]
    times = runtime.one(whole(f"latency on {engine}", key, kind, _time_graphs, *given))
    timed = {p.kept: replace(p, latency=t) for p, t in zip(points, times[1:], strict=True)}
    speed = Speed(
        engine=engine,
        versions=dict(plugin.versions()),
        runs=rounds,
        whole=times[0],
        caveat=plugin.caveat(),
    )
    chosen = timed[found.chosen.kept]
    if found.top is None and found.met:
        chosen = _fastest([p for p in timed.values() if meets(p, found)])
    return replace(
        found,
        points=tuple(timed.get(p.kept, p) for p in found.points),
        chosen=chosen,
        policy=keeping(studied.policy, chosen.kept),
        speed=speed,
    )


def _time_graphs(
    engine: str,
    graphs: Sequence[onnx.ModelProto],
    batch: Array,
    rounds: int,
    progress: Progress,
) -> tuple[Timing, ...]:
    return tuple(time_graphs(load_engine(engine), graphs, batch, rounds, progress))


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


def _fastest(points: Sequence[Point]) -> Point:
    """Of the points that cannot be told from the fastest, the one with the most in INT8."""
    timed = [(point, point.latency) for point in points if point.latency]
    _, best = min(timed, key=lambda pair: pair[1].p50_ms)
    equal = [point for point, latency in timed if latency.low_ms <= best.high_ms]
    return min(equal, key=lambda p: (-p.share, len(p.kept), p.drop))


def time_graphs(
    plugin: EnginePlugin,
    protos: Sequence[onnx.ModelProto],
    batch: Array,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
) -> list[Timing]:
    """Times graphs in turns, so that what else the machine does hits all alike.

    Args:
        plugin: The engine.
        protos: The graphs.
        batch: 1 x 3 x H x W.
        rounds: Timed runs of each.
        progress: Where to report.
    """
    seconds = np.empty((rounds, len(protos)))
    with ExitStack() as stack:
        engines = [stack.enter_context(plugin.build(p, EngineOptions())) for p in protos]
        for built in engines:
            for _ in range(WARMUP):
                built.infer(batch)
        for turn in (progress or Silent()).track(range(rounds), f"latency on {plugin.name}"):
            for number, built in enumerate(engines):
                began = time.perf_counter()
                built.infer(batch)
                seconds[turn, number] = time.perf_counter() - began
    return [_timing(column * 1e3) for column in seconds.T]


def _timing(values: Array) -> Timing:
    """The median and its interval by order statistics (binomial, normal approximation)."""
    ordered = np.sort(values)
    half = 1.645 * math.sqrt(len(ordered)) / 2
    low = max(math.floor((len(ordered) - 1) / 2 - half), 0)
    high = min(math.ceil((len(ordered) - 1) / 2 + half), len(ordered) - 1)
    return Timing(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))
