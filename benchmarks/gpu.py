"""Everything that only a GPU can tell, as one Markdown table for docs/engines.md.

    python benchmarks/gpu.py --out gpu.md

Needs an NVIDIA GPU, no network, and less than ten minutes. Every part runs in a process of its own
with a time limit; one that fails, hangs or crashes costs nothing but its own row, which says why.
By default the network is the demo's YOLOv7-tiny at 640 x 640; `--model yolov7 --weights FILE` takes
another one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Seconds of all parts together.
ALL = 570
#: Images to calibrate and to train on, and steps of training.
IMAGES, STEPS = 8, 4
#: Inferences before those that are timed, and of those.
WARMUP, RUNS = 20, 200
#: What the child says before its rows.
MARK = "rows of the table: "

Rows = list[tuple[str, str]]


def main() -> int:
    given = arguments()
    if given.part:
        print(MARK + json.dumps(PARTS[given.part][1](given)))
        return 0
    began, rows = time.monotonic(), []
    for name, (limit, _) in PARTS.items():
        left = min(limit, ALL - (time.monotonic() - began))
        found = (
            run_part(name, left, sys.argv[1:]) if left > 5 else [("not run", "the time is over")]
        )
        rows += [(name, *row) for row in found]
        print(f"{name}: {'; '.join(': '.join(row) for row in found)}", flush=True)
    given.out.write_text(markdown(rows), encoding="utf-8")
    print(f"{given.out}: written after {time.monotonic() - began:.0f} s")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    parser.add_argument("--model", help="a model's name; the demo's by default")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=int, default=640, help="side of the network's input")
    parser.add_argument("--part", choices=PARTS, help="run this one here, and print its rows")
    return parser.parse_args()


def run_part(name: str, limit: float, given: Sequence[str] = ()) -> Rows:
    """The rows of a part, or one that says why there are none."""
    command = [sys.executable, str(Path(__file__).resolve()), *given, "--part", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return [("failed", f"not done after {limit:.0f} s")]
    told = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode == 0 and told:
        return [tuple(row) for row in json.loads(told[-1][len(MARK) :])]
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return [("failed", (said[-1] if said else f"exit code {done.returncode}")[:300])]


def markdown(rows: Sequence[tuple[str, str, str]]) -> str:
    """The table; a part's name stands in its first row alone."""
    lines, before = ["| part | what | result |", "| --- | --- | --- |"], ""
    for part, what, result in rows:
        cells = ("" if part == before else part, what, result)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        before = part
    return "\n".join(lines) + "\n"


def hide(*modules: str) -> None:
    """Makes modules look as if they were not installed, so that another one is taken."""
    for name in modules:
        sys.modules[name] = None  # type: ignore[assignment]


def machine(given: argparse.Namespace) -> Rows:
    from quantcore.contracts.registry import versions_of
    from quantcore.runtime.host import host

    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        gpu = f"none: {error}"
    names = (
        *("torch", "paddlepaddle-gpu", "paddlepaddle", "tensorrt", "tensorrt-rtx-cu13"),
        *("onnxruntime-gpu", "onnxruntime", "cuda-bindings", "pycuda"),
    )
    found = versions_of(name for name in names if installed(name))
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    return [
        ("GPU, driver, memory", gpu),
        ("processor", ", ".join(map(str, host().values()))),
        ("versions", told),
    ]


def installed(distribution: str) -> bool:
    from importlib import metadata

    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def tests(given: argparse.Namespace) -> Rows:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    why = [line for line in lines if line.startswith(("SKIPPED", "FAILED", "ERROR"))]
    told = lines[-1].strip("= ") if lines else done.stderr.strip().splitlines()[-1]
    return [("marked `gpu`", "; ".join([told, *why])[:300])]


def float_model(given: argparse.Namespace, size: int | None = None) -> Any:
    import quantcore
    from quantcore.contracts.model import ModelOptions

    demo = quantcore.demo()
    name, weights = given.model or demo.model, given.weights or demo.weights
    return quantcore.load_model(name, weights, ModelOptions(image_size=size or given.size))


def calibration(backend: str) -> Callable[[argparse.Namespace], Rows]:
    """A backend's tables on the GPU against those that it makes on the CPU."""

    def part(given: argparse.Namespace) -> Rows:
        import quantcore

        model, rows = float_model(given, 320), []
        for observer in ("max", "percentile", "entropy"):
            policy = quantcore.CalibrationPolicy.from_dict(
                {"images": IMAGES, "activations": {"observer": observer}}
            )
            found, seconds = [], []
            for device in ("cuda", "cpu"):  # without a GPU it is over at once
                began = time.perf_counter()
                made = quantcore.calibrate(
                    model, quantcore.demo().data, backend=backend, policy=policy, device=device
                )
                seconds.append(time.perf_counter() - began)
                found.append(made.table)
            rows.append((f"{observer}, GPU against CPU", tables_apart(*found, seconds)))
        return rows

    return part


def tables_apart(gpu: Any, cpu: Any, seconds: Sequence[float]) -> str:
    """How far ranges of two tables are apart."""
    import numpy as np

    apart = [
        float(np.max(np.abs(np.asarray(gpu.tensors[name].amax) / np.asarray(entry.amax) - 1)))
        for name, entry in cpu.tensors.items()
        if np.all(np.asarray(entry.amax) > 0)
    ]
    return (
        f"{len(apart)} ranges at most {max(apart):.1e} apart, half of them below "
        f"{statistics.median(apart):.1e}; {seconds[0]:.1f} s on the GPU, {seconds[1]:.1f} on the "
        "CPU"
    )


def training(backend: str) -> Callable[[argparse.Namespace], Rows]:
    """The losses of a few steps on the GPU against those on the CPU, from the same ranges."""

    def part(given: argparse.Namespace) -> Rows:
        import numpy as np

        import quantcore
        from quantcore.contracts.session import SessionOptions

        model, demo = float_model(given, 320), quantcore.demo()
        policy = quantcore.CalibrationPolicy.from_dict({"images": IMAGES})
        recipe = quantcore.Recipe(steps=STEPS, batch=2, crop=160, warmup=2, held_out=0.0)
        how: dict[str, Any] = {"backend": backend, "policy": policy}
        table = quantcore.calibrate(model, demo.data, **how, device="cuda").table
        trained = [
            quantcore.train(
                model,
                demo.data,
                **how,
                table=table,
                recipe=recipe,
                options=SessionOptions(device=d),
            )
            for d in ("cuda", "cpu")
        ]
        losses = [np.asarray(one.record.losses.total) for one in trained]
        apart = float(np.max(np.abs(losses[0] / losses[1] - 1)))
        seconds = [one.record.seconds for one in trained]
        tables = tables_apart(trained[0].table, trained[1].table, seconds)
        return [
            (f"losses of {STEPS} steps, GPU against CPU", f"at most {apart:.1e} apart"),
            ("ranges after them", tables),
        ]

    return part


def quantized(model: Any) -> tuple[Any, str]:
    """A Q/DQ graph in TensorRT's placement by the first backend that can make one, and its name."""
    import quantcore
    from quantcore.errors import QuantcoreError

    reasons = []
    for info in quantcore.plugins():
        if info.group != "quantcore.backends":
            continue
        try:
            policy = quantcore.CalibrationPolicy.from_dict({"images": IMAGES})
            made = quantcore.calibrate(
                model, quantcore.demo().data, backend=info.name, policy=policy, device="cpu"
            )
            return quantcore.quantize(model, made.table), info.name
        except QuantcoreError as error:
            reasons.append(f"{info.name}: {error}")
    raise RuntimeError("; ".join(reasons) or "no backend is installed")


def graphs_of(given: argparse.Namespace) -> tuple[dict[str, Any], Any, str]:
    """The network in four precisions, an input, and how it was quantized."""
    from quantcore.analysis.agreement import noise
    from quantcore.qdq.precision import int8_fp16

    model = float_model(given)
    qdq, backend = quantized(model)
    found = {
        "FP32": model.proto,
        "FP16": int8_fp16(model.proto),
        "INT8": qdq.proto,
        "INT8+FP16": int8_fp16(qdq.proto),
    }
    return found, noise(model), f"{model.name}, {given.size} x {given.size}, by {backend}"


def tensorrt(module: str, library: str) -> Callable[[argparse.Namespace], Rows]:
    """One TensorRT through one CUDA library: builds, precisions of layers, latencies."""

    def part(given: argparse.Namespace) -> Rows:
        hide(*({"tensorrt", "tensorrt_rtx"} - {module}), *({"cuda", "pycuda"} - {library}))
        from quantcore.contracts.registry import load_engine

        engine = load_engine("tensorrt")
        versions = ", ".join(map(" ".join, engine.versions().items()))
        said = engine.cannot_run()
        if said is not None:
            raise RuntimeError(said)
        graphs, batch, how = graphs_of(given)
        told = [("library", versions), ("network", how)]
        return [*told, *latencies(engine, graphs, batch, library == "cuda")]

    return part


def latencies(engine: Any, graphs: Mapping[str, Any], batch: Any, records: bool) -> Rows:
    """The audit of each graph, and its latency with and without CUDA graphs; a row each."""
    from quantcore.engines.audit import audit
    from quantcore.engines.tensorrt.options import TensorRtOptions
    from quantcore.errors import QuantcoreError

    rows: Rows = []
    for name, proto in graphs.items():
        for recorded in (True, False) if records else (False,):
            what = f"{name}, {'with' if recorded else 'without'} CUDA graphs"
            try:
                with engine.build(proto, TensorRtOptions(cuda_graphs=recorded)) as session:
                    if recorded is records and "INT8" in name:
                        rows.append(
                            (f"{name}, audit", audit(engine, proto, session.layers()).summary())
                        )
                    rows.append((what, timed(session, batch)))
            except QuantcoreError as error:
                rows.append((what, f"failed: {error}"[:300]))
    return rows


def timed(session: Any, batch: Any) -> str:
    """Median latency: by CUDA events around the network, and by the wall with its copies."""
    for _ in range(WARMUP):
        session.infer(batch)
    device = [session.device_seconds(batch) for _ in range(RUNS)]
    wall = []
    for _ in range(RUNS):
        began = time.perf_counter()
        session.infer(batch)
        wall.append(time.perf_counter() - began)
    by_wall = f"{statistics.median(wall) * 1e3:.3f} ms with copies"
    events = [seconds for seconds in device if seconds is not None]
    if not events:
        return by_wall
    return f"{statistics.median(events) * 1e3:.3f} ms by events, {by_wall}"


def provider(name: str) -> Callable[[argparse.Namespace], Rows]:
    """One of ONNX Runtime's providers: what ran where, and how long it took."""

    def part(given: argparse.Namespace) -> Rows:
        from quantcore.contracts.registry import load_engine
        from quantcore.engines.onnxruntime import OnnxRuntimeOptions

        engine, rows = load_engine("onnxruntime"), []
        options = OnnxRuntimeOptions(providers=(name,))
        engine.check(options)
        graphs, batch, how = graphs_of(given)
        for precision, proto in graphs.items():
            with engine.build(proto, options) as session:
                rows.append((precision, f"{timed(session, batch)}; {session.runs_on()}"))
        return [("network", how), *rows]

    return part


Part = tuple[float, Callable[[argparse.Namespace], Rows]]
BACKENDS = ("pytorch-quantization", "paddle")
#: Name -> most seconds, and what gives the rows.
PARTS: dict[str, Part] = {
    "machine": (30, machine),
    "tests": (120, tests),
    **{f"calibration, {name}": (90, calibration(name)) for name in BACKENDS},
    **{f"training, {name}": (90, training(name)) for name in BACKENDS},
    **{
        f"{module}, {library}": (100, tensorrt(module, library))
        for module in ("tensorrt", "tensorrt_rtx")
        for library in ("cuda", "pycuda")
    },
    **{
        f"ONNX Runtime, {name}": (60, provider(name))
        for name in ("CUDAExecutionProvider", "TensorrtExecutionProvider")
    },
}

if __name__ == "__main__":
    sys.exit(main())
