"""What the portable observers cost beside the float forward passes that feed them.

Prints, from one run in which every batch goes through all variants in turn, in float32 and then in
float64 (the default of portable policies):

(a) calibration with each observer against the bare forward passes in the same arithmetic;
(b) several observers in one pass against the dearest one alone;
(c) the entropy threshold search against pytorch-quantization's on the same histograms.

    python benchmarks/observers.py --weights yolov5n-coco.pt --data coco-mini

Wall time is what a person waits; CPU time says the same on a machine that others use too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from quantcore_pytorch_quantization.network import Network

from quantcore.calibration.collector import Collector
from quantcore.calibration.entropy import entropy_threshold
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.pipeline import CALIBRATION_SPLIT, load_model
from quantcore.policy.policy import ARITHMETICS, CalibrationPolicy, TensorPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import Site, plan

#: The observers that are measured; `all` is every one of them in one pass.
OBSERVERS = ("max", "percentile", "mse", "entropy", "moving_average")
BINNED = ("percentile", "mse", "entropy")


class Clock:
    """Wall and CPU seconds of what ran under it, lap by lap."""

    def __init__(self) -> None:
        self.laps: list[tuple[float, float]] = []

    def __call__(self, work: Callable[[], object]) -> None:
        """Times the work as one lap."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.laps.append((time.perf_counter() - wall, time.process_time() - cpu))

    @property
    def wall(self) -> float:
        """Seconds of all laps, each taken as the median: busy moments do not count."""
        return float(np.median([wall for wall, _ in self.laps])) * len(self.laps)

    @property
    def cpu(self) -> float:
        """Likewise, CPU seconds."""
        return float(np.median([cpu for _, cpu in self.laps])) * len(self.laps)

    def over(self, other: Clock, search: Clock | None = None) -> str:
        """The ratios to another clock, those of a search included."""
        wall = self.wall + (search.wall if search else 0)
        cpu = self.cpu + (search.cpu if search else 0)
        return f"wall {wall / other.wall:5.2f}x  CPU {cpu / other.cpu:5.2f}x"


class Variant:
    """One way to calibrate: forward passes whose activations a collector sees."""

    def __init__(self, sites: Sequence[Site], observers: Sequence[str]) -> None:
        self.policies = [TensorPolicy(name) for name in observers]
        own = [Site(s.tensor, s.role, self.policies[0], s.consumers) for s in sites]
        self.collector = Collector(own, extra=self.policies[1:])
        self.clock, self.search = Clock(), Clock()
        self.hooks = {site.tensor: self._hook(site.tensor) for site in sites}

    def _hook(self, tensor: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def see(values: torch.Tensor) -> torch.Tensor:
            self.collector.see(tensor, values.numpy())  # a view: nothing is copied
            return values

        return see

    def ranges(self) -> None:
        """Searches the thresholds of every observer."""
        for policy in self.policies:
            self.collector.ranges(policy)


def batches(
    args: argparse.Namespace, preprocessing: object, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    images = CocoDataset.open(args.data, CALIBRATION_SPLIT).select(args.images, 0)
    for batch in Batches(images, preprocessing, args.batch).inputs():
        yield torch.tensor(batch, dtype=dtype)


def measure(args: argparse.Namespace, arithmetic: str) -> Variant:
    """Parts (a) and (b); returns the variant that watched everything."""
    model = load_model(args.model, args.weights)
    sites = [
        s for s in plan(model, CalibrationPolicy(placement=MINIMAL)).sites if s.role == "activation"
    ]
    network = Network(model, torch.device("cpu"), arithmetic)
    variants = {name: Variant(sites, [name]) for name in OBSERVERS}
    variants["three"] = Variant(sites, ["max", "percentile", "mse"])
    variants["all"] = Variant(sites, OBSERVERS)
    floor = Clock()
    turns = [(floor, None), *((v.clock, v.hooks) for v in variants.values())]
    with torch.inference_mode():
        for number, batch in enumerate(batches(args, model.preprocessing, network.dtype)):
            if not number:
                network(batch)  # the first pass allocates
            first = number % len(turns)  # caches hold what the last one left
            for clock, hooks in (*turns[first:], *turns[:first]):
                clock(lambda x=batch, h=hooks: network(x, h))
    each = floor.wall / args.images * 1e3
    print(f"{arithmetic}: bare passes {each:.1f} ms an image, {args.images} images")
    for name, variant in variants.items():
        variant.search(variant.ranges)
        ratios = variant.clock.over(floor, variant.search)
        print(f"  {name:14s} {ratios}, of it search {variant.search.wall:.3f} s")
    dearest = max((variants[name] for name in BINNED), key=lambda v: v.clock.cpu)
    for name in ("three", "all"):
        print(f"{name} in one pass over the dearest: {variants[name].clock.over(dearest.clock)}")
    return variants["all"]


def search(collector: Collector, tensors: int, bins: int) -> None:
    """Part (c)."""
    from pytorch_quantization.calib.histogram import _compute_amax_entropy

    histograms = list(collector.histograms().items())
    chosen = histograms[:: max(len(histograms) // tensors, 1)][:tensors]
    ours, theirs, equal = Clock(), Clock(), 0
    for _, (histogram,) in chosen:
        counts, edges = histogram.magnitudes(bins)
        found: list[float] = []
        ours(lambda c=counts, e=edges, f=found: f.append(entropy_threshold(c, e)))
        with np.errstate(all="ignore"):
            theirs(
                lambda c=counts, e=edges, f=found: f.append(
                    float(_compute_amax_entropy(c.copy(), e, 8, False, 1, 128))
                )
            )
        equal += np.float32(found[0]) == np.float32(found[1])
    print(
        f"entropy search, stride 1, {len(chosen)} tensors, up to {bins} bins: pytorch-quantization "
        f"{theirs.cpu:.2f} CPU s, quantcore {ours.cpu:.4f}: {theirs.cpu / ours.cpu:.0f}x; "
        f"bit-equal thresholds {equal} of {len(chosen)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--search-tensors", type=int, default=3)
    parser.add_argument("--search-bins", type=int, default=2048)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for arithmetic in ARITHMETICS:
        everything = measure(args, arithmetic)
    search(everything.collector, args.search_tensors, args.search_bins)


if __name__ == "__main__":
    main()
