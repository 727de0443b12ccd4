"""What `quantcore auto` promised, held against images that it has never seen.

    python benchmarks/unseen.py MODEL --weights FILE --auto FOLDER --data ROOT:SPLIT ...

FOLDER is what `quantcore auto MODEL --weights FILE --out FOLDER` wrote. Data sets are pooled.
What it delivers is judged as there, by its own graph and others that hardly differ.
"""

from __future__ import annotations

import argparse
import json
from functools import reduce
from pathlib import Path

from quantcore.commands.options import engine_options, load_model
from quantcore.data.coco import CocoDataset
from quantcore.pipeline import Evaluation
from quantcore.report.terminal import estimate
from quantcore.runtime.executor import kept_in
from quantcore.runtime.progress import for_console
from quantcore.studies.auto.attempt import Attempt
from quantcore.studies.auto.judging import Judge
from quantcore.table.table import CalibrationTable


def pooled(first: CocoDataset, second: CocoDataset) -> CocoDataset:
    """The images of both, which must not be the same, under the same categories."""
    assert first.categories == second.categories
    assert not {i.id for i in first.images} & {i.id for i in second.images}
    return CocoDataset(
        first.source,
        (*first.images, *second.images),
        first.categories,
        (*first.annotations, *second.annotations),
    )


def opened(written: str) -> CocoDataset:
    root, _, split = written.rpartition(":")
    return CocoDataset.open(Path(root), split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--auto", type=Path, required=True)
    parser.add_argument("--data", nargs="+", required=True, metavar="ROOT:SPLIT")
    parser.add_argument("--graphs", type=int, default=6)
    parser.add_argument("--engine-option", nargs="*", default=[])
    given = parser.parse_args()
    record = json.loads((given.auto / "auto.json").read_text())
    chosen = record["tried"][record["chosen"]]
    engine = chosen["engine"]
    how = Evaluation(engine, engine_options([engine], given.engine_option)[engine])
    model = load_model(given.model, given.weights, preset=given.preset)
    recipe = Attempt(
        rung=chosen["rung"],
        backend="",
        model=load_model("onnx", given.auto / "float.onnx"),
        table=CalibrationTable.load(given.auto / "table.json"),
    )
    dataset = reduce(pooled, map(opened, given.data))
    with kept_in(given.auto, for_console()) as runtime:
        judge = Judge(model, dataset, dataset.images, how, runtime)
        found = judge.mean(
            recipe.model, list(recipe.graphs(given.graphs)), "images that nobody has seen"
        )
    promised = record["unseen"]["drop"]
    drop = found.drop_estimate
    inside = promised["low"] <= drop.value <= promised["high"]
    calibrated = len(recipe.table.provenance.image_ids)
    print(f"{model.name}: {chosen['name']}, calibrated on {calibrated} images")
    print(
        f"  promised {promised['value']:+.4f} ({promised['low']:+.4f} to {promised['high']:+.4f})"
    )
    print(
        f"  {len(dataset.images)} images, float {estimate(judge.float_figure)}: lost "
        f"{estimate(drop, 4, '+')}, detections {estimate(found.lost_estimate, 4)}: "
        f"{'inside' if inside else 'OUTSIDE'} what was promised"
    )


if __name__ == "__main__":
    main()
