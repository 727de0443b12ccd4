"""How many images does a choice among recipes need, and by what should it go?

    python benchmarks/choosing.py MODEL --weights FILE --data ROOT:SPLIT ROOT:SPLIT ... --out FOLDER

The first data set gives the images to calibrate on; its others, and those of the further data sets,
choose and judge. Recipes (four observers, plain and equalized) are chosen on random subsets, by the
loss of mAP, by the detections lost, and by both, as `quantcore auto` does. What the chosen one
loses is then measured on all images outside the subset, by another graph of the recipe, which
hardly differs: luck in the draw of the graph does not count either. Printed is that loss, in the
mean over the subsets. Its error is that of the draw of the subsets, not of the images as a whole.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
from unseen import opened, pooled

from quantcore.commands.options import load_model
from quantcore.data.coco import CocoDataset
from quantcore.evaluation.losses import shares
from quantcore.evaluation.tasks import task_of
from quantcore.pipeline import Data, Evaluation
from quantcore.results.metric import COCO
from quantcore.runtime.executor import kept_in
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.progress import for_console
from quantcore.studies.auto.attempt import Attempt
from quantcore.studies.auto.choice import Known, believed, least
from quantcore.studies.auto.judging import Judge
from quantcore.studies.auto.ladder import Ladder
from quantcore.studies.auto.parts import Parts
from quantcore.studies.auto.settings import PLACEMENTS, AutoStudy

SUBSETS = 40

#: From detections lost, drops and the deviation of these to the recipe that is chosen.
WAYS: dict[str, Callable[[np.ndarray, np.ndarray, float], int]] = {
    "mAP": lambda lost, drop, deviation: int(drop.argmin()),
    "detections": lambda lost, drop, deviation: int(lost.argmin()),
    "both, as auto does": lambda lost, drop, deviation: least(
        range(len(lost)),
        [believed(Known(*of_one, deviation), COCO) for of_one in zip(lost, drop, strict=True)],
    ),
}


def subsets(images: int, sizes: list[int]) -> np.ndarray:
    """For each size SUBSETS pairs of rows: which images choose, and which judge."""
    random, rows = np.random.default_rng(0), []
    for size in sizes:
        for _ in range(SUBSETS):
            chosen = np.zeros(images)
            chosen[random.permutation(images)[:size]] = 1
            rows += [chosen, 1 - chosen]
    return np.asarray(rows)


def asking(about: str | None) -> argparse.ArgumentParser:
    """What `prepared` reads."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--data", nargs="+", required=True, metavar="ROOT:SPLIT")
    parser.add_argument("--backend", default="pytorch-quantization")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--calibrate", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    return parser


def prepared(given: argparse.Namespace) -> tuple[AutoStudy, Parts, CocoDataset]:
    """The study, and all images but those to calibrate on."""
    root, _, split = given.data[0].rpartition(":")
    first, *others = map(opened, given.data)
    calibrating = first.select(given.calibrate)
    aside = {image.id for image in calibrating}
    everything = reduce(pooled, others, first)
    dataset = everything.only([i.id for i in everything.images if i.id not in aside])
    what = AutoStudy(
        model=load_model(given.model, given.weights, preset=given.preset),
        data=Data(Path(root), split),
        out=given.out,
        backends=(given.backend,),
        placements=PLACEMENTS[:1],
    )
    return what, Parts(first, calibrating, dataset.images), dataset


def recipes(what: AutoStudy, parts: Parts, runtime: Runtime) -> list[Attempt]:
    """Four observers, plain and equalized, and the backend's own."""
    ladder = Ladder(what, parts, runtime, print)
    plain = ladder.attempts("observers", lambda _: {}, None, False)
    return plain + ladder.attempts("equalize", lambda _: {}, None, False)


def main() -> None:
    parser = asking(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 40, 80, 120, 160, 200])
    given = parser.parse_args()
    what, parts, dataset = prepared(given)
    model = what.model
    task = task_of(model)
    with kept_in(given.out, for_console()) as runtime:
        tried = recipes(what, parts, runtime)
        judge = Judge(model, dataset, dataset.images, Evaluation(given.engine), runtime)
        options = judge.how.options
        reference = judge.found(model, [model.proto], "float network", options)[0][1]
        weights = subsets(len(dataset.images), given.sizes)
        ids = [image.id for image in dataset.images]
        float_figure = task.resampled(dataset, reference, weights)
        # The first graph of a recipe is chosen by, the second one is judged.
        lost, drop = (np.empty((len(tried), 2, len(weights) // 2)) for _ in range(2))
        for number, attempt in enumerate(tried):
            graphs = list(attempt.graphs(2))
            for graph, (_, found) in enumerate(
                judge.found(attempt.model, graphs, attempt.name, options)
            ):
                pairs = task.agreements(reference, found, ids)
                own = weights[graph::2]
                lost[number, graph] = 1 - shares(pairs, own)
                drop[number, graph] = float_figure[graph::2] - task.resampled(dataset, found, own)
            whole = (lost[number, 1].mean(), drop[number, 1].mean())
            print(f"{attempt.name}: detections lost {whole[0]:.4f}, mAP {whole[1]:+.4f}")
    judged = drop[:, 1]
    means = judged.mean(axis=1)
    print(f"{len(tried)} recipes lose {means.mean():.4f}, the best {means.min():.4f}")
    for place, size in enumerate(given.sizes):
        part = slice(place * SUBSETS, (place + 1) * SUBSETS)
        # How far a drop on so many images scatters is what the deviation of a bootstrap estimates;
        # subsets of images that are not many more scatter less than that.
        among = (1 - size / len(dataset.images)) ** 0.5
        deviation = float(drop[:, 0, part].std(axis=1).mean()) / among
        line = f"{size} images (a drop scatters by {deviation:.4f}): "
        for way, choose in WAYS.items():
            given_by = zip(lost[:, 0, part].T, drop[:, 0, part].T, strict=True)
            chosen = [choose(*known, deviation) for known in given_by]
            loses = judged[:, part][chosen, np.arange(SUBSETS)]
            line += f"by {way} {loses.mean():.4f} ± {loses.std() / SUBSETS**0.5:.4f}; "
        print(line)


if __name__ == "__main__":
    main()
