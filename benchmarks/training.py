r"""What trainings bought on images that nothing saw, pooled over seeds.

    python benchmarks/training.py MODEL --weights FILE --data COCO [--data COCO ...] --graphs N \
        NAME=MODEL,TABLE[;MODEL,TABLE ...] NAME=...

Each NAME is a side: one or several networks with their tables (`DIR` is short for `DIR/float.onnx`
and `DIR/table.json`; MODEL left empty is the given one), as trainings from several seeds. Every
network is measured by its own graph and by N - 1 that hardly differ, on the images of all splits
that are given as COCO or COCO:SPLIT. Printed for each side are detections lost against the float
model and mAP, as the mean and for each network, and the change against the first side, paired by
image, with intervals of 90 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from quantcore.commands.options import load_model
from quantcore.contracts.registry import load_engine
from quantcore.data.coco import CocoDataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.report.terminal import estimate
from quantcore.results.estimate import Estimate
from quantcore.runtime.progress import for_console
from quantcore.table.table import CalibrationTable
from quantcore.training.gate import Gate, Scores, Side, mean


def pooled(sources: list[str]) -> CocoDataset:
    """The images of several splits as one data set."""
    parts = []
    for source in sources:
        root, _, split = source.partition(":")
        parts.append(CocoDataset.open(Path(root), split or "val2017"))
    images = {image.id: image for part in parts for image in part.images}
    return CocoDataset(
        " and ".join(sources),
        tuple(images.values()),
        parts[0].categories,
        tuple(a for part in parts for a in part.annotations),
    )


def sides(model: FloatModel, written: str) -> list[Side]:
    """The networks of a side."""
    found = []
    for one in written.split(";"):
        network, comma, table = one.partition(",")
        if not comma:
            network, table = f"{one}/float.onnx", f"{one}/table.json"
        ranges = CalibrationTable.load(Path(table))
        own = load_model("onnx", Path(network)) if network else model
        policy = CalibrationPolicy.from_dict(ranges.provenance.policy)
        found.append(Side(own, plan(own, policy), ranges))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("sides", nargs="+", metavar="NAME=MODEL,TABLE")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--graphs", type=int, default=3)
    parser.add_argument("--images", type=int)
    given = parser.parse_args()
    model = load_model(given.model, given.weights, preset=given.preset)
    dataset = pooled(given.data)
    images = dataset.select(given.images)
    gate = Gate(model, dataset, images, load_engine(REFERENCE_ENGINE), for_console())
    print(f"{len(images)} images, {given.graphs} graphs of each network")
    first: Scores | None = None
    for written in given.sides:
        name, _, networks = written.partition("=")
        each = [
            mean([gate.score(graph) for graph in side.graphs(given.graphs - 1)])
            for side in sides(model, networks)
        ]
        found = mean(each)
        first = first or found
        print(
            f"{name}: lost {estimate(Estimate.of(found.lost), 4)}, mAP "
            f"{estimate(Estimate.of(found.figure), 4)}; against the first: lost "
            f"{estimate(Estimate.of(found.lost - first.lost), 4, '+')}, mAP "
            f"{estimate(Estimate.of(found.figure - first.figure), 4, '+')}; each: "
            + ", ".join(f"{s.lost[0]:.4f}/{s.figure[0]:.4f}" for s in each),
            flush=True,
        )


if __name__ == "__main__":
    main()
