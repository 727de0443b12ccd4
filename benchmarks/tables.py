"""What calibration tables lose, each as the mean of several graphs that differ by a hair.

    python benchmarks/tables.py MODEL --weights FILE --data COCO TABLE TABLE ...

The mAP of one quantized graph moves by up to 0.007 when its scales move by one unit in the last
place (docs/adr/0001), which is more than good policies differ by. So each table is measured as it
is, and with every activation's range changed at random by about 1 %. Printed are means and their
standard errors: detections lost (docs/sensitivity.md) on all splits, mAP lost on each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from quantcore.analysis.neighbours import neighbours
from quantcore.commands.options import load_model
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.data.coco import CocoDataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.evaluator import evaluate
from quantcore.evaluation.tasks import Detection
from quantcore.ir.model import FloatModel
from quantcore.pipeline import quantize
from quantcore.results.estimate import Neighbours
from quantcore.results.evaluation import Accuracy
from quantcore.table.table import CalibrationTable

Found = list[tuple[Accuracy, Predictions]]


def run(model: FloatModel, proto: onnx.ModelProto, splits: Sequence[CocoDataset]) -> Found:
    with load_engine(REFERENCE_ENGINE).build(proto, EngineOptions()) as engine:
        return [evaluate(engine, model, split) for split in splits]


def lost(reference: Found, found: Found) -> float:
    """1 - soft Dice coefficient over the images of all splits."""
    pairs = [
        Detection().agreements(mine, theirs, sorted(mine.by_image))
        for (_, mine), (_, theirs) in zip(reference, found, strict=True)
    ]
    common, total = np.concatenate(pairs).sum(axis=0)
    return float(1 - common / total)


def mean(values: Sequence[float]) -> str:
    found = Neighbours(tuple(values))
    return f"{found.mean:+.4f} ± {found.error:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--splits", nargs="+", default=["val2017", "train2017"])
    parser.add_argument("--graphs", type=int, default=6)
    given = parser.parse_args()
    model = load_model(given.model, given.weights, preset=given.preset)
    splits = [CocoDataset.open(given.data, name) for name in given.splits]
    reference = run(model, model.proto, splits)
    maps = ", ".join(f"{n} {r.main:.4f}" for n, (r, _) in zip(given.splits, reference, strict=True))
    print(f"{model.name}: float mAP {maps}; {given.graphs} graphs for each table", flush=True)
    for path in given.tables:
        table = CalibrationTable.load(path)
        tables = [table, *neighbours(table, given.graphs - 1)]
        found = [run(model, quantize(model, one).proto, splits) for one in tables]
        line = f"{path.name}: detections lost {mean([lost(reference, one) for one in found])}"
        for place, name in enumerate(given.splits):
            whole = reference[place][0].main
            drops = [whole - one[place][0].main for one in found]
            line += f"; mAP lost on {name} {mean(drops)}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
