"""Calibration through quantcore against Paddle's own API driven by hand.

Same materialised network, same images, same process, taken in turns; the best of all rounds counts,
and processor time beside wall time, because a machine is seldom idle. Paddle's API is used as its
documentation says, on all convolutions; what each variant observes is printed beside its time.

    python backends/paddle/benchmarks/calibration.py [--observer max] [--images 16] [--rounds 5]
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
from paddle.quantization import PTQ, ImperativePTQ, PTQConfig, QuantConfig
from paddle.quantization.imperative.ptq_quantizer import (
    AbsmaxQuantizer,
    KLQuantizer,
    PerChannelAbsmaxQuantizer,
)
from paddle.quantization.observers import AbsmaxObserver
from quantcore_paddle.session import PaddleSession

from quantcore.calibration.driver import calibrate
from quantcore.contracts import registry
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.model import ModelOptions
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan

SHARED = Path(__file__).resolve().parents[4] / "shared"
Feed = list[np.ndarray]


def through_quantcore(observer: str) -> Run:
    """Plans, observes and reads the ranges back, as the command line does."""

    def run(session: PaddleSession, model: FloatModel, feed: Feed) -> None:
        policy = CalibrationPolicy.from_dict(
            {"placement": "minimal", "activations": {"observer": observer}}
        )
        calibrate(session, plan(model, policy), feed)

    return run


def by_imperative_ptq(quantizer: type) -> Run:
    """Paddle's hooks on all convolutions, and its threshold search."""

    def calibrate(session: PaddleSession, model: FloatModel, feed: Feed) -> None:
        network = session.network
        for layer in network.sublayers():
            layer.skip_quant = not isinstance(layer, paddle.nn.Conv2D)
        ptq = ImperativePTQ(PTQConfig(quantizer(), PerChannelAbsmaxQuantizer()))
        ptq.quantize(network, inplace=True)
        forward(network, feed)
        ptq._cal_thresholds(network)  # what save_quantized_model does first

    return calibrate


def by_ptq(session: PaddleSession, model: FloatModel, feed: Feed) -> None:
    """Paddle's newer wrappers on all convolutions; absmax is the only observer it has."""
    config = QuantConfig(activation=None, weight=None)
    config.add_type_config(paddle.nn.Conv2D, activation=AbsmaxObserver(), weight=AbsmaxObserver())
    network = PTQ(config).quantize(session.network, inplace=True)
    forward(network, feed)
    for layer in network.sublayers():
        if isinstance(layer, paddle.quantization.BaseObserver):
            layer.cal_thresholds()
            float(layer.scales())


def forward(network: paddle.nn.Layer, feed: Feed) -> None:
    """All images through the network."""
    with paddle.no_grad():
        for batch in feed:
            for head in network(paddle.to_tensor(batch)):
                head.numpy()


Run = Callable[[PaddleSession, FloatModel, Feed], None]
VARIANTS: dict[str, dict[str, tuple[str, Run]]] = {
    "max": {
        "quantcore": ("inputs, weights per channel", through_quantcore("max")),
        "PTQ": ("inputs, weights per tensor", by_ptq),
        "ImperativePTQ": (
            "inputs, outputs, weights per channel",
            by_imperative_ptq(AbsmaxQuantizer),
        ),
    },
    "entropy": {
        "quantcore": ("inputs, weights per channel", through_quantcore("entropy")),
        "ImperativePTQ": (
            "inputs, outputs, weights per channel",
            by_imperative_ptq(KLQuantizer),
        ),
    },
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--observer", choices=VARIANTS, default="max")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=SHARED / "weights/yolov5n-coco.pt")
    parser.add_argument("--data", type=Path, default=SHARED / "data/coco-mini")
    return parser.parse_args()


def main() -> None:
    """Times every variant and prints the ratios."""
    options = arguments()
    logging.getLogger("paddle.quantization.imperative.ptq").setLevel(logging.WARNING)
    model = registry.load_model("yolov5n").load(options.weights, ModelOptions())
    images = CocoDataset.open(options.data, "train2017").select(options.images, 0)
    feed = list(Batches(images, model.preprocessing, options.batch_size).inputs())
    backend = registry.load_backend("paddle")
    variants = VARIANTS[options.observer]
    wall: dict[str, list[float]] = {name: [] for name in variants}
    processor: dict[str, list[float]] = {name: [] for name in variants}
    order = list(variants)
    for _ in range(options.rounds):
        for name in order:
            with backend.open(model, SessionOptions(device="cpu")) as session:
                session.forward(feed[0][:1])
                began = time.perf_counter(), time.process_time()
                variants[name][1](session, model, feed)
                wall[name].append(time.perf_counter() - began[0])
                processor[name].append(time.process_time() - began[1])
        order.append(order.pop(0))  # nobody is always first
    print(f"yolov5n, {options.observer}, {options.images} images, best of {options.rounds} rounds")
    for name, (observed, _) in variants.items():
        ratios = [f"{min(t['quantcore']) / min(t[name]):.2f}" for t in (wall, processor)]
        print(
            f"{name:14} {min(wall[name]):7.2f} s wall {min(processor[name]):7.2f} s processor, "
            f"quantcore takes {ratios[0]} and {ratios[1]} of it; observes {observed}"
        )


if __name__ == "__main__":
    main()
