"""Calibration through quantcore against the same toolkit driven by hand, in one run.

    python benchmarks/calibration.py MODEL WEIGHTS DATA [--images 16] [--rounds 3]

By hand means what the toolkit's users do: its quantized modules, each with a calibrator on its
input (placement `minimal` observes the same), fed with the same images in the same order. Rounds
alternate, so that both see the same machine. Prints seconds and their ratio for each observer, and
the peak memory of a calibration with 20 and with 80 images.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from absl import logging as absl_logging
from pytorch_quantization import calib
from quantcore_pytorch_quantization.network import Network

from quantcore import pipeline
from quantcore.calibration.driver import calibrate
from quantcore.contracts import registry
from quantcore.contracts.backend import SessionOptions
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan

BACKEND = "pytorch-quantization"


def by_hand(model: FloatModel, batches: Batches, observer: str) -> dict[str, float]:
    """The amax of every convolution's input, by layer, found with the toolkit alone."""
    network = Network(model, torch.device("cpu"))
    for layer in network.layers.values():
        for quantizer in (layer.input_quantizer, layer.weight_quantizer):
            quantizer.enable()
            quantizer.disable_quant()
        calibrator = (
            calib.MaxCalibrator(8, None, False)
            if observer == "max"
            else calib.HistogramCalibrator(8, None, False)
        )
        layer.input_quantizer._calibrator = calibrator
        layer.input_quantizer.enable_calib()
        # The weights once, before the images: a user who leaves it enabled pays for every batch.
        layer.weight_quantizer.enable_calib()
        layer.weight_quantizer(layer.weight)
        layer.weight_quantizer.disable()
    with torch.inference_mode():
        for batch in batches.inputs():
            network(torch.from_numpy(batch))
    arguments = () if observer == "max" else (observer,)
    return {
        name: float(layer.input_quantizer._calibrator.compute_amax(*arguments))
        for name, layer in network.layers.items()
    }


def through_quantcore(model: FloatModel, batches: Batches, observer: str) -> dict[str, float]:
    """The same through the backend's session."""
    sites = plan(
        model,
        CalibrationPolicy.from_dict(
            {"placement": "minimal", "activations": {"observer": observer}}
        ),
    )
    with registry.load_backend(BACKEND).open(model, SessionOptions(device="cpu")) as session:
        ranges = calibrate(session, sites, batches.inputs())
    return {
        consumer: float(ranges[site.tensor].amax_array)
        for site in sites.sites
        if site.role == "activation"
        for consumer in site.consumers
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="only the memory comparison")
    options = parser.parse_args()
    absl_logging.set_verbosity(absl_logging.FATAL)
    if not options.memory:
        speed(options)
    memory(options)


def speed(options: argparse.Namespace) -> None:
    model = pipeline.load_model(options.model, options.weights)
    images = CocoDataset.open(options.data, pipeline.CALIBRATION_SPLIT).select(options.images)
    batches = Batches(images, model.preprocessing, CalibrationPolicy().batch_size)
    for observer in ("max", "percentile"):
        seconds: dict[str, list[float]] = {"by_hand": [], "through_quantcore": []}
        for _ in range(options.rounds):
            for function in (by_hand, through_quantcore):
                began = time.perf_counter()
                found = function(model, batches, observer)
                seconds[function.__name__].append(time.perf_counter() - began)
                if function is by_hand:
                    expected = found
        assert found == expected, "both must find the same ranges"
        hand, ours = (statistics.median(s) for s in seconds.values())
        print(
            f"{observer}: by hand {hand:.1f} s, through quantcore {ours:.1f} s, "
            f"ratio {ours / hand:.3f} (median of {options.rounds}, {len(images)} images)"
        )


def memory(options: argparse.Namespace) -> None:
    """A peak depends on how reader threads and the allocator meet, by 10 % from run to run."""
    peaks: dict[int, list[float]] = {20: [], 80: []}
    for _ in range(options.rounds):
        for images, found in peaks.items():
            arguments = [options.model, str(options.weights), str(options.data), str(images)]
            command = [sys.executable, __file__, "--child", *arguments]
            out = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(float(out.stdout.splitlines()[-1]))
    few, many = (statistics.median(found) for found in peaks.values())
    print(
        f"peak memory: 20 images {few:.0f} MB, 80 images {many:.0f} MB, ratio {many / few:.3f} "
        f"(median of {options.rounds}; {min(peaks[20]):.0f}-{max(peaks[20]):.0f} and "
        f"{min(peaks[80]):.0f}-{max(peaks[80]):.0f} MB)"
    )


def child(model: str, weights: str, data: str, images: str) -> None:
    """One calibration in a process of its own; prints its peak memory in MB."""
    found = pipeline.calibrate(
        pipeline.load_model(model, Path(weights)),
        data,
        backend=BACKEND,
        policy=CalibrationPolicy(images=int(images)),
    )
    print(found.peak_rss_mb)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:6])
    else:
        main()
