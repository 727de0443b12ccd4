"""Entropy calibration through quantcore against onnxruntime.quantization's calibrator.

    python benchmarks/entropy.py --weights yolox_nano.onnx --data coco-mini

The same float graph, images and letterboxing, each run in a process of its own. ONNX Runtime is
used as its users do: `create_calibrator`, `collect_data`, `compute_data`. Left to itself it looks
at every float tensor; another run tells it to look at those that quantcore does. Prints wall time
and peak resident memory, and the ratios to quantcore's, in each arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantcore import pipeline
from quantcore.calibration.driver import calibrate
from quantcore.commands.options import load_model
from quantcore.contracts import registry
from quantcore.contracts.backend import SessionOptions
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import ARITHMETICS, CalibrationPolicy
from quantcore.qdq.placement import Plan, plan
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import run_apart


def opened(given: argparse.Namespace) -> tuple[FloatModel, Plan, Batches]:
    """What every run starts from."""
    model = load_model(given.model, given.weights, preset=given.preset)
    policy = CalibrationPolicy.from_dict(
        {"implementation": "portable", "activations": {"observer": "entropy"}}
    )
    dataset = CocoDataset.open(given.data, pipeline.CALIBRATION_SPLIT)
    batches = Batches(dataset.select(given.images, policy.seed), model.preprocessing)
    return model, plan(model, policy), batches


def activations(sites: Plan) -> set[str]:
    return {site.tensor for site in sites.sites if site.role == "activation"}


def quantcore(given: argparse.Namespace, arithmetic: str, _: Progress) -> tuple[int, float]:
    """How many activations got a range, and the seconds from images to ranges."""
    model, sites, batches = opened(given)
    sites = replace(sites, arithmetic=arithmetic)
    options = SessionOptions(arithmetic=arithmetic)
    with registry.load_backend(given.backend).open(model, options) as session:
        began = time.perf_counter()
        calibrate(session, sites, batches.inputs())
        return len(activations(sites)), time.perf_counter() - began


def onnxruntime(given: argparse.Namespace, same: bool, _: Progress) -> tuple[int, float]:
    """The same by ONNX Runtime, on the same tensors or on those that it chooses."""
    from onnxruntime.quantization import calibrate

    model, sites, batches = opened(given)

    class Reader(calibrate.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(batches.inputs())

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {model.input_name: batch}

    class Same(calibrate.EntropyCalibrater):
        def select_tensors_to_calibrate(self, _: object) -> tuple[set[str], Mapping[str, Any]]:
            _, known = super().select_tensors_to_calibrate(model.proto)
            return activations(sites), known

    if same:
        calibrate.EntropyCalibrater = Same
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        graph = Path(folder) / "float.onnx"
        graph.write_bytes(model.proto.SerializeToString())
        calibrator = calibrate.create_calibrator(
            graph,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=calibrate.CalibrationMethod.Entropy,
            extra_options={"symmetric": True},
        )
        began = time.perf_counter()
        calibrator.collect_data(Reader())
        found = calibrator.compute_data()
        return len(found.keys()), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="onnx")
    parser.add_argument("--preset", default="yolox")
    parser.add_argument("--backend", default="pytorch-quantization")
    parser.add_argument("--images", type=int, default=80)
    given = parser.parse_args()
    ours: dict[str, tuple[float, ...]] = {}
    for name, job, how in (
        *((f"quantcore, {arithmetic}", quantcore, arithmetic) for arithmetic in ARITHMETICS),
        ("ONNX Runtime, same tensors", onnxruntime, True),
        ("ONNX Runtime, its own choice", onnxruntime, False),
    ):
        began = time.perf_counter()
        done = run_apart(job, given, how, progress=Silent(), what=name)
        whole, (tensors, calibrating) = time.perf_counter() - began, done.result
        cost = (whole, calibrating, done.peak_rss_mb)
        print(
            f"{name}: {tensors} tensors; the whole process {whole:.1f} s, from images to ranges "
            f"{calibrating:.1f} s, peak {cost[2]:.0f} MB"
        )
        if job is quantcore:
            ours[name] = cost
            continue
        for own, costs in ours.items():
            ratios = [f"{theirs / mine:.1f}x" for theirs, mine in zip(cost, costs, strict=True)]
            print(f"  over {own}: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
