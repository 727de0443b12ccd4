"""A training step against the same step written by hand in torch, on YOLOv5n.

    python benchmarks/training_step.py --weights yolov5n.pt --data COCO [--pairs 15] [--threads 2]

By hand: the network as its authors have it, batch-norm fused; a learned fake quantizer on the input
of each convolution and one by the largest magnitude of each channel on its weight; the weighted
squares of the heads and of as many activations as the recipe watches; backward; Adam. Both take
steps in turns, on the same four crops of 320 pixels, so that other load meets both alike. Printed
are the seconds of each and their ratio, as medians and as the least of all pairs.

For pytorch-quantization, whose framework is torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import quantcore
from quantcore.contracts.registry import load_backend, load_engine
from quantcore.contracts.session import SessionOptions
from quantcore.contracts.training import Rates, TrainingSpec
from quantcore.data.coco import CocoDataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.training.crops import Crops
from quantcore.training.recipe import Recipe
from quantcore.training.teacher import Teacher

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models" / "yolo" / "tests"))
from yolo_layer_lists import yolov5
from yolo_torch import Model


class Quantized(nn.Module):
    """A convolution with both quantizers."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.log = nn.Parameter(torch.zeros(1))
        self.first: Tensor | None = None  # the scale to start with
        self.register_buffer("zero", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of what the codes stand for."""
        if self.first is None:
            self.first = x.detach().abs().max().reshape(1) / 127
        scale = self.first * torch.exp(self.log)
        factor = 1 / (x[0].numel() * 127) ** 0.5
        x = torch._fake_quantize_learnable_per_tensor_affine(x, scale, self.zero, -128, 127, factor)
        weight, conv = self.conv.weight, self.conv
        found = weight.detach()
        spread = found.abs().amax((1, 2, 3), keepdim=True) / 127
        weight = weight + (torch.round(found / spread) * spread - found)
        return nn.functional.conv2d(x, weight, conv.bias, conv.stride, conv.padding)


class ByHand:
    """The same training, without any of quantcore."""

    def __init__(self, watched: int) -> None:
        net = Model(yolov5(width=0.25, nc=80)).fuse()
        for module in net.modules():
            if hasattr(module, "conv") and not isinstance(module, Quantized):
                module.conv = Quantized(module.conv)
        self.net = net.float().requires_grad_()
        quantized = [m for m in net.modules() if isinstance(m, Quantized)]
        logs = [m.log for m in quantized]
        known = {id(log) for log in logs}
        rest = [p for p in net.parameters() if id(p) not in known]
        self.adam = torch.optim.Adam(
            [{"params": rest, "lr": 2e-5}, {"params": logs, "lr": 0.01}], eps=1e-8
        )
        self.seen: list[Tensor] = []
        every = max(1, len(quantized) // watched)
        for module in quantized[::every]:
            module.register_forward_pre_hook(lambda m, given: self.seen.append(given[0]))
        self.wanted: list[Tensor] | None = None

    def step(self, batch: np.ndarray) -> float:
        """Forward, weighted squares, backward, Adam; the loss."""
        self.seen.clear()
        heads = self.net(torch.from_numpy(batch))
        found = [*heads, *self.seen]
        if self.wanted is None:
            self.wanted = [t.detach() * 1.01 for t in found]
            self.weights = [torch.full_like(h, 1e-6) for h in heads]
            self.weights += [torch.full((1, 1, 1, 1), 1e-6) for _ in self.seen]
        parts = [
            ((a - b).square() * w).sum()
            for a, b, w in zip(found, self.wanted, self.weights, strict=True)
        ]
        self.adam.zero_grad(set_to_none=True)
        torch.stack(parts).sum().backward()
        self.adam.step()
        return sum(part.item() for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--placement", default="minimal")
    given = parser.parse_args()
    model = quantcore.load_model("yolov5n", given.weights)
    # As many quantizers as by hand: one for the input of each convolution, but for shared ones.
    policy = CalibrationPolicy.from_dict({"placement": given.placement, "images": 4})
    recipe = Recipe()
    sites = plan(model, policy)
    done = quantcore.calibrate(model, given.data, backend="pytorch-quantization", policy=policy)
    images = CocoDataset.open(given.data, "train2017").select(8)
    engine, rates = load_engine(REFERENCE_ENGINE), Rates(weights=2e-5, scales=0.01)
    plugin = load_backend("pytorch-quantization")
    spec = TrainingSpec(layers=recipe.trained(model))
    options = SessionOptions(device="cpu", threads=given.threads)
    with (
        plugin.open(model, options) as session,
        Teacher(model, sites, recipe, engine) as teacher,
        session.training(sites, done.table.tensors, spec) as run,
    ):
        batch = Crops(images, model.preprocessing, recipe, teacher.size).batch(0)
        began = time.perf_counter()
        targets = teacher.targets(batch)
        print(f"crops' teacher values: {time.perf_counter() - began:.2f} s, in neither")
        hand = ByHand(len(teacher.watched))
        torch.set_num_threads(given.threads)
        ours, theirs = [], []
        for pair in range(given.pairs + 2):
            took = []
            for step in (lambda: run.step(batch, targets, rates), lambda: hand.step(batch)):
                began = time.perf_counter()
                step()
                took.append(time.perf_counter() - began)
            print(f"pair {pair + 1}: {took[0]:.3f} s, by hand {took[1]:.3f} s", flush=True)
            if pair >= 2:  # the first two warm up
                ours.append(took[0])
                theirs.append(took[1])
        count = sum(isinstance(m, Quantized) for m in hand.net.modules())
    print(f"{len(sites.sites)} quantizers here, {2 * count} by hand; {given.pairs} pairs")
    for name, pick in (("median", statistics.median), ("least", min)):
        a, b = pick(ours), pick(theirs)
        print(f"{name}: {a:.3f} s, by hand {b:.3f} s, ratio {a / b:.2f}")
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"median of the ratios of pairs: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
