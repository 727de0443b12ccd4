"""How often does the interval of a drop hold what other images say?

    python benchmarks/intervals.py MODEL --weights FILE --data ROOT:SPLIT ... --out FOLDER

As `choosing.py`: the first data set gives the images to calibrate on; its others, and those of the
further data sets, are parted at random into some that judge, with an interval of 90 % over draws of
them, and the rest. Printed for each recipe is how often the rest's drop of mAP lies within, and how
often it would if intervals were exactly right: the rest is a draw, too, so that is less than 90 %.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from choosing import asking, prepared, recipes

from quantcore.evaluation.tasks import task_of
from quantcore.pipeline import Evaluation
from quantcore.results.estimate import Estimate
from quantcore.runtime.executor import kept_in
from quantcore.runtime.progress import for_console
from quantcore.studies.auto.judging import Judge

DRAWS = 100


def rows(images: int, judging: int, parts: int) -> np.ndarray:
    """For each part: the images that judge, draws of them, and the rest."""
    random, found = np.random.default_rng(5), []
    for _ in range(parts):
        picks = random.permutation(images)[:judging]
        own = np.bincount(picks, minlength=images)
        draws = (random.choice(picks, judging) for _ in range(DRAWS))
        found += [own, *(np.bincount(draw, minlength=images) for draw in draws), 1 - own]
    return np.asarray(found, float)


def main() -> None:
    parser = asking(__doc__)
    parser.add_argument("--judge", type=int, default=79)
    parser.add_argument("--parts", type=int, default=60)
    given = parser.parse_args()
    what, parts, dataset = prepared(given)
    model = what.model
    weights = rows(len(dataset.images), given.judge, given.parts)
    task = task_of(model)
    held = []
    with kept_in(given.out, for_console()) as runtime:
        judge = Judge(model, dataset, dataset.images, Evaluation(given.engine), runtime)
        options = judge.how.options
        reference = judge.found(model, [model.proto], "float network", options)[0][1]
        figure = task.resampled(dataset, reference, weights)
        for recipe in recipes(what, parts, runtime):
            graph = recipe.graph().proto
            ((_, found),) = judge.found(recipe.model, [graph], recipe.name, options)
            drops = (figure - task.resampled(dataset, found, weights)).reshape(given.parts, -1)
            within = []
            for part in drops:
                interval = Estimate.of(part[:-1])
                within.append(interval.low <= part[-1] <= interval.high)
            held.append(np.mean(within))
            print(f"{recipe.name}: {held[-1]:.0%} of {given.parts}")
    rest = len(dataset.images) - given.judge
    normal = NormalDist()
    right = 2 * normal.cdf(normal.inv_cdf(0.95) / (1 + given.judge / rest) ** 0.5) - 1
    print(f"held {np.mean(held):.0%}, exactly right were {right:.0%}")


if __name__ == "__main__":
    main()
