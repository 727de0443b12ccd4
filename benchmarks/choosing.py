"""How many images does a choice among recipes need, and by what should it go?

    python benchmarks/choosing.py MODEL --weights FILE --data ROOT:SPLIT ROOT:SPLIT ... --out FOLDER

The first data set gives the images to calibrate on and, with the others but the last, the pool
that chooses; the last is only ever judged on. Recipes (four observers, plain and equalized) are
chosen on random subsets of the pool, by the loss of mAP, by the detections lost, and by what
`quantcore auto` believes. What the chosen one loses is then measured on all images outside the
subset, by another graph of the recipe, which hardly differs: luck in the draw of the graph does not
count either. Printed is how much more that is than what the best recipe loses there, in the mean
over the subsets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np
from unseen import opened, pooled

from quantcore.commands.options import load_model
from quantcore.evaluation.losses import shares
from quantcore.evaluation.tasks import task_of
from quantcore.pipeline import Data, Evaluation
from quantcore.results.metric import COCO
from quantcore.runtime.executor import kept_in
from quantcore.runtime.progress import for_console
from quantcore.studies.auto.choice import Known, believed
from quantcore.studies.auto.judging import Judge
from quantcore.studies.auto.ladder import Ladder
from quantcore.studies.auto.parts import Parts
from quantcore.studies.auto.settings import PLACEMENTS, AutoStudy

SUBSETS = 60

Ways = dict[str, Callable[[float, float, float], float]]

#: From detections lost, drop and its deviation to what is chosen by.
WAYS: Ways = {
    "mAP": lambda lost, drop, deviation: drop,
    "detections": lambda lost, drop, deviation: lost,
    "believed": lambda lost, drop, deviation: believed(Known(lost, drop, deviation), COCO).drop,
}


def subsets(pool: int, judging: int, sizes: list[int]) -> np.ndarray:
    """For each size SUBSETS pairs of rows: which images choose, and which judge."""
    random, rows = np.random.default_rng(0), []
    for size in sizes:
        for _ in range(SUBSETS):
            chosen = np.zeros(pool + judging)
            chosen[random.permutation(pool)[:size]] = 1
            rows += [chosen, 1 - chosen]
    return np.asarray(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--data", nargs="+", required=True, metavar="ROOT:SPLIT")
    parser.add_argument("--backend", default="pytorch-quantization")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--calibrate", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 40, 80, 160])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    model = load_model(given.model, given.weights, preset=given.preset)
    root, _, split = given.data[0].rpartition(":")
    first, *others = map(opened, given.data)
    calibrating = first.select(given.calibrate)
    aside = {image.id for image in calibrating}
    everything = reduce(pooled, others, first)
    dataset = everything.only([i.id for i in everything.images if i.id not in aside])
    judging = len(others[-1].images)
    what = AutoStudy(
        model=model,
        data=Data(Path(root), split),
        out=given.out,
        backends=(given.backend,),
        placements=PLACEMENTS[:1],
    )
    task = task_of(model)
    with kept_in(given.out, for_console()) as runtime:
        parts = Parts(first, calibrating, dataset.images)
        ladder = Ladder(what, parts, runtime, print)
        tried = ladder.attempts("observers", lambda _: {}, None, False)
        tried += ladder.attempts("equalize", lambda _: {}, None, False)
        judge = Judge(model, dataset, dataset.images, Evaluation(given.engine), runtime)
        options = judge.how.options
        reference = judge.found(model, [model.proto], "float network", options)[0][1]
        weights = subsets(len(dataset.images) - judging, judging, given.sizes)
        ids = [image.id for image in dataset.images]
        float_figure = task.resampled(dataset, reference, weights)
        lost, drop = (np.empty((len(tried), 2, len(weights))) for _ in range(2))
        for number, attempt in enumerate(tried):
            graphs = list(attempt.graphs(2))
            for graph, (_, found) in enumerate(
                judge.found(attempt.model, graphs, attempt.name, options)
            ):
                pairs = task.agreements(reference, found, ids)
                lost[number, graph] = 1 - shares(pairs, weights)
                drop[number, graph] = float_figure - task.resampled(dataset, found, weights)
            whole = (lost[number, :, 1::2].mean(), drop[number, :, 1::2].mean())
            print(f"{attempt.name}: detections lost {whole[0]:.4f}, mAP {whole[1]:+.4f}")
    judged = drop[:, 1, 1::2]
    regret = judged - judged.min(axis=0)
    print(f"{len(tried)} recipes; taking any: {regret.mean():.4f} more than the best")
    for place, size in enumerate(given.sizes):
        part = slice(place * SUBSETS, (place + 1) * SUBSETS)
        # How far a drop on so many images scatters is what the deviation of a bootstrap estimates.
        deviation = float(drop[:, 0, 0::2][:, part].std(axis=1).mean())
        line = f"{size} images (a drop scatters by {deviation:.4f}): "
        for way, score in WAYS.items():
            scores = np.vectorize(score)(
                lost[:, 0, 0::2][:, part], drop[:, 0, 0::2][:, part], deviation
            )
            chosen = scores.argmin(axis=0)
            more = regret[:, part][chosen, np.arange(SUBSETS)]
            line += f"by {way} {more.mean():.4f} ± {more.std() / SUBSETS**0.5:.4f}; "
        print(line)


if __name__ == "__main__":
    main()
