"""Times `quantcore sensitivity` against two naive loops in one run, and compares what they find.

    python benchmarks/sensitivity.py MODEL --weights FILE --table TABLE --data COCO

*By hand* is what there is without the command: for one layer after another a policy file, then
`quantcore quantize` and `quantcore evaluate`. *The loop* does the same in one process, with the
float model, table and data set read once and no time spent on latency or intervals.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from quantcore.commands.options import load_model
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.data.coco import CocoDataset
from quantcore.engines import REFERENCE_ENGINE
from quantcore.evaluation.coco import score
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.evaluator import evaluate
from quantcore.runtime.executor import kept_in
from quantcore.runtime.threads import cores
from quantcore.studies.graph_job import Candidate
from quantcore.studies.keep import alone
from quantcore.studies.runs import GraphRuns, RunOutcome
from quantcore.studies.sensitivity import StudiedModel
from quantcore.table.table import CalibrationTable


def clock() -> tuple[float, float]:
    """Wall and CPU seconds; on a busy machine the second is the fairer measure."""
    return time.perf_counter(), time.process_time()


def graphs(subject: StudiedModel) -> list[Candidate]:
    return [
        subject.candidate(name, alone(subject.policy, subject.layers, name), name)
        for name in subject.layers
    ]


def naive(
    subject: StudiedModel,
    dataset: CocoDataset,
    images: int,
    names: tuple[str, ...],
    threads: int | None,
) -> dict[str, tuple[Detections, float | None]]:
    """One layer after another: quantize, build, run the whole graph on every image, score."""
    found = {}
    for name in names:
        variant = subject.candidate(name, alone(subject.policy, subject.layers, name))
        with load_engine(REFERENCE_ENGINE).build(
            variant.proto, EngineOptions(threads=threads)
        ) as engine:
            result, detections = evaluate(engine, subject.model, dataset, images=images)
        found[name] = (detections, result.main)
    return found


def shared(
    subject: StudiedModel, dataset: CocoDataset, images: int, folder: Path
) -> tuple[list[RunOutcome], list[float | None]]:
    with kept_in(folder) as runtime:
        runs = GraphRuns(subject.model, dataset, dataset.select(images), runtime)
        outcomes = runs.run([Candidate("float", subject.model.proto), *graphs(subject)])
    return outcomes[1:], [score(dataset, o.predictions).figures["map"] for o in outcomes[1:]]


def by_hand(
    subject: StudiedModel, given: argparse.Namespace, names: tuple[str, ...], folder: Path
) -> tuple[dict[str, float | None], float]:
    """What a person with two commands finds: mAP by layer, and the seconds that a layer takes."""
    found = {}
    model = [given.model, "--weights", given.weights]
    model += ["--preset", given.preset] if given.preset else []
    began = time.perf_counter()
    for name in names:
        policy, graph, result = (folder / n for n in ("policy.yaml", "qdq.onnx", "result.json"))
        policy.write_text(
            yaml.safe_dump(alone(subject.policy, subject.layers, name).to_dict()), encoding="utf-8"
        )
        of = ["--onnx", graph, "--data", given.data, "--split", given.split]
        for words in (
            ["quantize", *model, "--table", given.table, "--policy", policy, "--out", graph],
            ["evaluate", *model, *of, "--images", given.images, "--out", result],
        ):
            command = [sys.executable, "-m", "quantcore", *map(str, words)]
            subprocess.run(command, check=True, capture_output=True)
        found[name] = json.loads(result.read_text(encoding="utf-8"))["map"]
    return found, (time.perf_counter() - began) / len(names)


def against_the_loop(
    subject: StudiedModel, dataset: CocoDataset, given: argparse.Namespace
) -> tuple[float, dict[str, float | None]]:
    """Seconds and mAP by layer of the shared run, once the loop's figures are printed."""
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
            boxes = outcome.predictions.by_image
            same = all(np.array_equal(boxes[i], b) for i, b in detections.by_image.items())
            differ += not same or figure != wanted
    print(
        f"{subject.model.name}: {len(names)} layers x {given.images} images on {cores()} cores: "
        f"shared {ours[0]:.1f} s, {ours[1]:.1f} s of CPU\n"
        f"the loop ({given.naive_threads or 'all'} threads) {theirs[0]:.1f} s, {theirs[1]:.1f} s "
        f"of CPU (from {len(some)} layers): {theirs[0] / ours[0]:.1f} x in time, "
        f"{theirs[1] / ours[1]:.1f} x in CPU; {differ} of {len(some)} layers differ in a box or in "
        "mAP"
    )
    return float(ours[0]), dict(zip(names, figures, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="the loop on every n-th layer only")
    parser.add_argument(
        "--naive-threads", type=int, help="threads of the loop's engine; its own by default"
    )
    parser.add_argument("--hand", type=int, default=6, help="so many layers by hand, evenly taken")
    given = parser.parse_args()
    model = load_model(given.model, given.weights, preset=given.preset)
    subject = StudiedModel.of(model, CalibrationTable.load(given.table))
    ours, figures = against_the_loop(subject, CocoDataset.open(given.data, given.split), given)
    names = subject.layers
    some = names[:: max(len(names) // given.hand, 1)][: given.hand] if given.hand else ()
    if some:
        with tempfile.TemporaryDirectory() as folder:
            maps, seconds = by_hand(subject, given, some, Path(folder))
        differ = sum(maps[name] != figures[name] for name in some)
        print(
            f"by hand {seconds:.1f} s a layer (from {len(some)}), {seconds * len(names):.0f} s for "
            f"all: {seconds * len(names) / ours:.1f} x in time; {differ} of them differ in mAP"
        )


if __name__ == "__main__":
    main()
