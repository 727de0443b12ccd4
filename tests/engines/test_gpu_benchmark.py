"""`benchmarks/gpu.py` as far as it goes without a GPU: on one that is played, and on none."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from quantcore.contracts.engine import EngineLayer
from quantcore.engines.tensorrt import cuda
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.errors import EngineError
from quantcore.table.table import TensorRange

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Engine:
    """Builds the played plan, and refuses one of the graphs."""

    def __init__(self, played: SimpleNamespace) -> None:
        self.played = played

    def build(self, proto: str, options: TensorRtOptions):
        if proto == "refused":
            raise EngineError("no kernel | here")
        session = self.played.open(recorded=options.cuda_graphs)
        session.layers = lambda: [EngineLayer("conv", "int8", "Conv")]
        return session


def test_precisions_are_timed_with_and_without_cuda_graphs(gpu, played, monkeypatch) -> None:
    monkeypatch.setattr("quantcore.engines.audit.audit", lambda *_: SimpleNamespace(summary=str))
    graphs = {"FP32": "float", "INT8": "codes", "FP16": "refused"}
    batch = np.ones((1, 2, 3), np.float32)
    rows = gpu.latencies(Engine(played), graphs, batch, played.graphs)
    whats = [what for what, _ in rows]
    pair = ["with CUDA graphs", "without CUDA graphs"] if played.graphs else ["without CUDA graphs"]
    assert whats == [
        *(f"FP32, {one}" for one in pair),
        "INT8, audit",
        *(f"INT8, {one}" for one in pair),
        *(f"FP16, {one}" for one in pair),
    ]
    assert rows[0][1].startswith("3.000 ms by events, ")
    assert rows[-1][1] == "failed: no kernel | here"
    launched = 2 * (gpu.WARMUP + 2 * gpu.RUNS) - 2
    assert played.gpu.launches == (launched if played.graphs else 0)


def test_tables_are_held_against_each_other(gpu) -> None:
    def table(*tops: float) -> SimpleNamespace:
        ranges = {f"t{n}": TensorRange.symmetric("activation", top) for n, top in enumerate(tops)}
        ranges["w"] = TensorRange.symmetric("weight", np.array([1.0, 2.0]), 0)
        return SimpleNamespace(tensors=ranges)

    told = gpu.tables_apart(table(1.0, 2.2, 0.0), table(1.0, 2.0, 0.0), [1.0, 2.0])
    assert told.startswith(
        "3 ranges at most 1.0e-01 apart, half of them below 0.0e+00; 1.0 s on the"
    )


def test_one_table_comes_out(gpu) -> None:
    rows = [("a", "x", "1"), ("a", "y", "2 | 3"), ("b", "failed", "why")]
    assert gpu.markdown(rows).splitlines()[2:] == [
        "| a | x | 1 |",
        "|  | y | 2 \\| 3 |",
        "| b | failed | why |",
    ]


def test_a_part_that_fails_hangs_or_crashes_is_a_row(gpu, monkeypatch) -> None:
    def run(code: str, limit: float = 20) -> list:
        whole = subprocess.run

        def other(command, **how):
            return whole([sys.executable, "-c", code], **how)

        with monkeypatch.context() as patch:
            patch.setattr(gpu.subprocess, "run", other)
            return gpu.run_part("machine", limit)

    assert run(f'print({gpu.MARK!r} + \'[["a", "b"]]\')') == [("a", "b")]
    assert run("raise ValueError('no GPU')") == [("failed", "ValueError: no GPU")]
    assert run("import os; os.abort()") == [("failed", "exit code -6")]
    assert run("import time; time.sleep(9)", 0.5) == [("failed", "not done after 0 s")]


@pytest.mark.skipif(isinstance(cuda.gpu(), cuda.Gpu), reason="there is a GPU")
def test_without_a_gpu_a_part_says_so(gpu) -> None:
    pytest.importorskip("tensorrt_rtx")
    ((what, why),) = gpu.run_part("tensorrt_rtx, cuda", 60)
    assert what == "failed"
    assert "GPU" in why
