"""Times `quantcore sensitivity` against the naive loop in one run, and compares what they find."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from quantcore.analysis.journal import Journal
from quantcore.analysis.keep import alone
from quantcore.analysis.runs import Outcome, Runs, Variant, cores
from quantcore.analysis.sensitivity import Subject
from quantcore.data.coco import CocoDataset
from quantcore.engine import EngineOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.evaluation.coco import score
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.evaluator import evaluate
from quantcore.model import ModelOptions
from quantcore.pipeline import load_model
from quantcore.registry import load_engine
from quantcore.table import CalibrationTable


def clock() -> tuple[float, float]:
    """Wall and CPU seconds; on a busy machine the second is the fairer measure."""
    return time.perf_counter(), time.process_time()


def graphs(subject: Subject) -> list[Variant]:
    return [
        subject.variant(name, alone(subject.policy, subject.layers, name), name)
        for name in subject.layers
    ]


def naive(
    subject: Subject,
    dataset: CocoDataset,
    images: int,
    names: tuple[str, ...],
    threads: int | None,
) -> dict[str, tuple[Detections, float | None]]:
    """One layer after another: quantize, build, run the whole graph on every image, score."""
    found = {}
    for name in names:
        variant = subject.variant(name, alone(subject.policy, subject.layers, name))
        with load_engine(REFERENCE_ENGINE).build(variant.proto, EngineOptions(threads)) as engine:
            result, detections = evaluate(engine, subject.model, dataset, images=images)
        found[name] = (detections, result.map)
    return found


def shared(
    subject: Subject, dataset: CocoDataset, images: int, folder: Path
) -> tuple[list[Outcome], list[float | None]]:
    with Journal(folder / "journal.jsonl") as journal:
        runs = Runs(subject.model, dataset, dataset.select(images), journal)
        outcomes = runs.run([Variant("float", subject.model.proto), *graphs(subject)])
    return outcomes[1:], [score(dataset, o.detections).figures["map"] for o in outcomes[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="naive loop on every n-th layer only")
    parser.add_argument(
        "--naive-threads", type=int, help="threads of the naive loop's engine; its own by default"
    )
    given = parser.parse_args()
    model = load_model(given.model, given.weights, ModelOptions(preset=given.preset))
    subject = Subject.of(model, CalibrationTable.load(given.table))
    dataset = CocoDataset.open(given.data, given.split)
    names = subject.layers
    some = names[:: given.every]
    # In turns, so that what else the machine does hits both alike.
    half = len(some) // 2
    clocks = [clock()]
    slow = naive(subject, dataset, given.images, some[:half], given.naive_threads)
    clocks.append(clock())
    with tempfile.TemporaryDirectory() as folder:
        fast, figures = shared(subject, dataset, given.images, Path(folder))
    clocks.append(clock())
    slow |= naive(subject, dataset, given.images, some[half:], given.naive_threads)
    clocks.append(clock())
    first, ours, second = np.diff(clocks, axis=0)
    theirs = (first + second) / len(some) * len(names)
    differ = 0
    for name, outcome, figure in zip(names, fast, figures, strict=True):
        if name in slow:
            detections, wanted = slow[name]
            boxes = outcome.detections.by_image
            same = all(np.array_equal(boxes[i], b) for i, b in detections.by_image.items())
            differ += not same or figure != wanted
    print(
        f"{model.name}: {len(names)} layers x {given.images} images on {cores()} cores: naive loop "
        f"({given.naive_threads or 'all'} threads) {theirs[0]:.1f} s, {theirs[1]:.1f} s of CPU "
        f"(from {len(some)} layers); shared "
        f"{ours[0]:.1f} s, {ours[1]:.1f} s of CPU; {theirs[0] / ours[0]:.1f} x in time, "
        f"{theirs[1] / ours[1]:.1f} x in CPU; {differ} of {len(some)} layers differ in a box or in "
        "mAP"
    )


if __name__ == "__main__":
    main()
