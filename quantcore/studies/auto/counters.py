"""What INT8 gains in each layer, by the engine's own counters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

import quantcore
from quantcore.analysis.agreement import noise
from quantcore.contracts.registry import load_engine
from quantcore.evaluation.latency import LatencyTest
from quantcore.ir.model import FloatModel
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, graph_digest
from quantcore.runtime.progress import Progress
from quantcore.studies.auto.timing import Runner, needs_of

#: Counted runs of each graph; engines count in microseconds, and a layer takes some ten of them.
RUNS = 30

#: Of what kept counts mean; a change of it makes all that is on disk obsolete.
REVISION = 2


@dataclass(frozen=True)
class Gain:
    """What INT8 gains in one layer, with what follows it up to the next.

    Attributes:
        seconds: Median over runs in turns; negative where INT8 is slower.
        slower: Whether INT8 is slower in three of four turns.
    """

    seconds: float
    slower: bool


def gains(
    whole_float: Runner, quantized: Runner, model: FloatModel, runtime: Runtime
) -> Mapping[str, Gain]:
    """What each layer with weights takes less in INT8.

    Sums of them are no promise: engines fuse layers, and convert where the precision changes. So
    they propose which layers to leave in float, and whole graphs are timed.

    Args:
        whole_float: The float network as it would be deployed.
        quantized: The recipe.
        model: The float model.
        runtime: Where it is done and kept.

    Returns:
        By layer; empty where the engine does not tell.

    Raises:
        EngineError: The engine refuses a graph.
    """
    runners = (whole_float, quantized)
    about = [
        (r.engine, dict(load_engine(r.engine).versions()), r.options, graph_digest(r.proto))
        for r in runners
    ]
    needs = needs_of(runners)
    key = content_key("counters", REVISION, quantcore.__version__, about, runtime.host(needs))
    given = (runners, LatencyTest(batch=noise(model), runs=RUNS))
    return runtime.one(
        whole("counters", key, dict[str, Gain], _counted, *given, quiet=True, needs=needs)
    )


def _counted(
    runners: tuple[Runner, Runner], test: LatencyTest, progress: Progress
) -> dict[str, Gain]:
    seen: dict[str, list[float]] = {}
    with ExitStack() as stack:
        before, after = (
            stack.enter_context(
                load_engine(r.engine).build(r.proto, replace(r.options, counters=True))
            )
            for r in runners
        )
        for run in progress.track(range(test.warmup + test.runs), "counters"):
            in_float, in_int8 = (engine.layer_seconds(test.batch) for engine in (before, after))
            if in_float is None or in_int8 is None:
                return {}
            if run >= test.warmup:
                for name in in_float.keys() & in_int8.keys():
                    seen.setdefault(name, []).append(in_float[name] - in_int8[name])
    return {
        name: Gain(float(np.median(turns)), float(np.quantile(turns, 0.75)) < 0)
        for name, turns in seen.items()
    }
