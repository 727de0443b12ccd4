"""FP32 against INT8 on the CPU engines: one process, one image, rounds that take turns.

    python benchmarks/engines.py --float float.onnx --qdq qdq.onnx --threads 2

A comparison writes both files (`float.onnx` and one Q/DQ graph for each backend).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from quantcore.contracts import registry
from quantcore.contracts.engine import Engine, EngineOptions
from quantcore.engines.audit import audit
from quantcore.ir.model import Array
from quantcore.runtime.host import host

OWN_RATIO = 0.65  # INT8 through OpenVINO against its own FP32
BEST_RATIO = 1.0  # the fastest INT8 against the fastest FP32

Key = tuple[str, str]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--float", type=Path, required=True, dest="float_graph")
    parser.add_argument("--qdq", type=Path, required=True)
    parser.add_argument("--engine", action="append", help="onnxruntime and openvino by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    return parser.parse_args()


def measure(engines: dict[Key, Engine], batch: Array, rounds: int) -> dict[Key, Array]:
    """Milliseconds of every round; in each, every engine runs once, so load hits all alike."""
    for engine in engines.values():
        for _ in range(3):
            engine.infer(batch)
    taken: dict[Key, list[float]] = {key: [] for key in engines}
    for number in range(rounds):
        keys = list(engines)
        for key in keys[number % len(keys) :] + keys[: number % len(keys)]:
            began = time.perf_counter()
            engines[key].infer(batch)
            taken[key].append((time.perf_counter() - began) * 1e3)
    return {key: np.asarray(values, np.float32) for key, values in taken.items()}


def ratio(over: Array, under: Array) -> float:
    """Median over the rounds of one engine's time against another's in the same round."""
    return float(np.median(over / under))


def counts(names: Sequence[str], engines: dict[Key, Engine], qdq: onnx.ModelProto) -> None:
    for name in names:
        print(audit(registry.load_engine(name), qdq, engines[name, "INT8"].layers()).summary())


def verdicts(taken: dict[Key, Array]) -> None:
    if ("openvino", "INT8") in taken:
        found = ratio(taken["openvino", "INT8"], taken["openvino", "FP32"])
        print(f"openvino INT8 / its own FP32: {found:.2f} (target {OWN_RATIO})")

    def best(kind: str) -> Key:
        keys = [key for key in taken if key[1] == kind]
        return min(keys, key=lambda key: float(np.median(taken[key])))

    fast, slow = best("INT8"), best("FP32")
    found = ratio(taken[fast], taken[slow])
    print(f"fastest INT8 ({fast[0]}) / fastest FP32 ({slow[0]}): {found:.2f} (target {BEST_RATIO})")


def main() -> None:
    given = arguments()
    names = given.engine or ["onnxruntime", "openvino"]
    graphs = {"FP32": onnx.load(given.float_graph), "INT8": onnx.load(given.qdq)}
    options = EngineOptions(threads=given.threads)
    engines = {
        (name, kind): registry.load_engine(name).build(graph, options)
        for name in names
        for kind, graph in graphs.items()
    }
    first = engines[names[0], "FP32"]
    shape = [size or 1 for size in first.input_shape]
    batch = np.random.default_rng(0).random(shape, dtype=np.float32)
    machine = host()
    print(
        f"{machine['processor']}, {given.threads} threads, {' x '.join(map(str, shape))}, "
        f"{given.rounds} rounds in turn"
    )
    taken = measure(engines, batch, given.rounds)
    for (name, kind), values in taken.items():
        p10, p50, p90 = np.percentile(values, (10, 50, 90))
        print(f"{name:12} {kind}  p50 {p50:7.1f} ms   p10 {p10:7.1f}   p90 {p90:7.1f}")
    counts(names, engines, graphs["INT8"])
    verdicts(taken)


if __name__ == "__main__":
    main()
