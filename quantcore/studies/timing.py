"""Times the variants of a comparison on an engine, float and quantized ones side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from quantcore.evaluation.latency import LatencyTest, latencies
from quantcore.ir.model import Array
from quantcore.pipeline import Evaluation
from quantcore.results.comparison import Variant
from quantcore.runtime.jobs import Runtime


def timed(
    variants: Sequence[Variant],
    graphs: Mapping[str, onnx.ModelProto],
    how: Evaluation,
    batch: Array,
    runtime: Runtime,
) -> list[Variant]:
    """The variants with their latencies, and with what those are to the float model's.

    Args:
        variants: All on one engine; the float model's is among them where it runs there.
        graphs: By the name of the graph's file.
        how: Engine and how often it is run.
        batch: The network input, 1 x 3 x H x W.
        runtime: Where it is done and kept.

    Raises:
        EngineError: The engine refuses a graph.
    """
    test = LatencyTest(batch=batch, warmup=how.warmup, runs=how.runs)
    protos = [graphs[variant.artifacts["onnx"]] for variant in variants]
    times = latencies(how.engine, how.options, protos, test, runtime)
    whole = next((n for n, v in enumerate(variants) if v.backend is None), None)
    return [
        replace(
            variant,
            evaluated=replace(variant.evaluated, latency=times.result(n)),
            latency_ratio=None if whole in (None, n) else times.ratio(n, whole),
        )
        for n, variant in enumerate(variants)
    ]
