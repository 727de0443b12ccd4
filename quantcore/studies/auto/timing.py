"""Graphs in turns on their engines: what a recipe is held against is what one would deploy else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import onnx

import quantcore
from quantcore.analysis.agreement import noise
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import ENGINES, load_engine
from quantcore.evaluation.latency import LatencyTest, measure
from quantcore.ir.edits import copied
from quantcore.ir.model import FloatModel
from quantcore.results.latency import Latencies
from quantcore.runtime.jobs import Needs, Runtime, whole
from quantcore.runtime.keys import content_key, graph_digest
from quantcore.runtime.progress import Progress

#: Timed turns while recipes are tried, and of the one that was chosen.
TURNS, LAST_TURNS = 40, 100

#: Of what kept times mean; a change of it makes all that is on disk obsolete.
REVISION = 1


@dataclass(frozen=True)
class Runner:
    """A graph on an engine.

    Attributes:
        engine: Engine name.
        options: How it is built.
        proto: The graph.
    """

    engine: str
    options: EngineOptions
    proto: onnx.ModelProto


class _OnEngine(Protocol):
    @property
    def engine(self) -> str: ...


def needs_of(runners: Iterable[_OnEngine]) -> Needs:
    """What a machine must have to time graphs side by side."""
    return Needs(plugins=tuple(sorted({(ENGINES, runner.engine) for runner in runners})))


def timed(
    runners: Sequence[Runner], model: FloatModel, runtime: Runtime, turns: int = TURNS
) -> Latencies:
    """Times graphs on their engines in one process, in turns; see `evaluation.latency.measure`.

    Raises:
        EngineError: An engine refuses a graph.
    """
    about = [
        (r.engine, dict(load_engine(r.engine).versions()), r.options, graph_digest(r.proto))
        for r in runners
    ]
    needs = needs_of(runners)
    key = content_key("turns", REVISION, quantcore.__version__, about, turns, runtime.host(needs))
    given = (tuple(runners), LatencyTest(batch=noise(model), runs=turns))
    return runtime.one(whole("latency", key, Latencies, _timed, *given, quiet=True, needs=needs))


def _timed(runners: Sequence[Runner], test: LatencyTest, progress: Progress) -> Latencies:
    with ExitStack() as stack:
        engines = [
            stack.enter_context(load_engine(r.engine).build(r.proto, r.options)) for r in runners
        ]
        return measure(engines, test, progress)


def structure(proto: onnx.ModelProto) -> str:
    """A digest of a graph without the values of its constants: equal ones take equally long."""
    bare = copied(proto)
    for constant in bare.graph.initializer:
        if constant.data_type == onnx.TensorProto.FLOAT:
            for field in ("raw_data", "float_data"):
                constant.ClearField(field)
        elif constant.data_type == onnx.TensorProto.INT8:
            constant.ClearField("raw_data")
    return graph_digest(bare)
