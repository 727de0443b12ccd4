"""From what was measured to a decision: what is believed of a drop, and what choosing costs.

On the few images that choose, mAP hardly tells recipes apart (80 images part graphs by 0.007, 240
by 0.003), while the share of the float network's detections that is lost is sharp. So a drop is
believed to be what both say together, each weighing by its own uncertainty: with few images the
detections decide, with many the main figure does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from quantcore.results.auto import Belief, Tried
from quantcore.results.metric import Metric
from quantcore.studies.auto.judging import DRAWS, HALVES, Judged


@dataclass(frozen=True)
class Known:
    """What a judged recipe says under one set of images."""

    lost: float
    drop: float
    deviation: float


def believed(known: Known, metric: Metric) -> Belief:
    """The drop that detections lost and the measured drop say together.

    The drop that goes with detections lost is taken as normal, with the metric's mean and relative
    deviation; the measured one as normal too, with the deviation of its bootstrap. The product of
    both is the posterior. Without labels the first stands alone.
    """
    expected = metric.drop_per_loss * known.lost
    spread = max(metric.drop_spread * abs(expected), 1e-6)
    if not (np.isfinite(known.drop) and np.isfinite(known.deviation)):
        return Belief(expected, spread, known.lost)
    weights = np.array([spread, max(known.deviation, 1e-6)]) ** -2.0
    drop = float(weights @ (expected, known.drop) / weights.sum())
    return Belief(drop, float(weights.sum() ** -0.5), known.lost)


def belief_of(judged: Judged, metric: Metric) -> Belief:
    """On all images that choose."""
    return _under(judged, 0, metric)


#: Picks one of some recipes by their beliefs, in order of what they cost.
Pick = Callable[[Sequence[Belief]], int]


def optimism(judged: Sequence[Judged], pick: Pick, metric: Metric) -> float:
    """How much too good the figure of a chosen recipe is because it was chosen by that figure.

    Recipes are chosen anew on half of the images, and the chosen one is judged on the other half;
    that half's drop less the one that it was chosen by, in the mean over many halves. Half as many
    images err by the square root of 2 more, and so does what is chosen by them: the mean is divided
    by it.

    Returns:
        0 for a single recipe.
    """
    if len(judged) < 2:
        return 0.0
    gaps = []
    for half in range(HALVES):
        here, there = (1 + DRAWS + 2 * half + other for other in (0, 1))
        beliefs = [_under(one, here, metric) for one in judged]
        chosen = pick(beliefs)
        gaps.append(_under(judged[chosen], there, metric).drop - beliefs[chosen].drop)
    return max(float(np.mean(gaps)) / 2**0.5, 0.0)


def _under(judged: Judged, row: int, metric: Metric) -> Belief:
    """What is believed of a recipe under one row of `weights_of`, weighed as on all images."""
    known = Known(float(judged.lost[row]), float(judged.drop[row]), judged.deviation)
    return believed(known, metric)


#: Where a recipe falls short, so much of the float network's speed weighs as much as the drop that
#: is asked.
SPEED = 0.1

#: Drops beyond so many times the asked one are out of reach of the rungs that lower them.
REACH = 10.0


def best(
    tried: Sequence[Tried],
    beliefs: Sequence[Belief],
    max_drop: float,
    min_speedup: float,
    confidence: float = 0.5,
) -> int:
    """Of all recipes the one to take, if their drops were as believed.

    Of the first rung that has any which meet both targets the fastest wins, for the rungs come
    cheapest first; where speeds cannot be told apart, what loses least. Where none meets both: of
    the fast ones what loses least, for the rungs to come lower a drop and make nothing faster; if
    that is out of their reach, or nothing is fast, what falls short of both by the least. Drops
    within a standard deviation of the least are no different: there what the float network finds
    decides.

    Args:
        tried: The recipes.
        beliefs: What is held against the drop; not what `tried` says of it.
        max_drop: The drop that is asked for.
        min_speedup: The speed that is asked for.
        confidence: How surely the drop must be met.
    """
    numbers = range(len(tried))
    unit = max(max_drop, 1e-3)
    over = [max(0.0, belief.at(confidence) - max_drop) / unit for belief in beliefs]
    short = [max(0.0, min_speedup / one.speedup.value - 1) / SPEED for one in tried]
    fast = [n for n in numbers if tried[n].fast]
    if meeting := [n for n in fast if not over[n]]:
        rung = tried[meeting[0]].rung  # they are in the order of the rungs
        pool = [n for n in meeting if tried[n].rung == rung]
        top = max((tried[n].speedup for n in pool), key=lambda speedup: speedup.value)
        return least([n for n in pool if tried[n].speedup.high >= top.low], beliefs)
    if within := [n for n in fast if over[n] <= REACH]:
        return least(within, beliefs)
    return min(numbers, key=lambda n: over[n] + short[n])


def least(pool: Sequence[int], beliefs: Sequence[Belief]) -> int:
    """What loses least."""
    first = min((beliefs[n] for n in pool), key=lambda belief: belief.drop)
    alike = [n for n in pool if beliefs[n].drop <= first.drop + first.deviation]
    return min(alike, key=lambda n: beliefs[n].lost)


def needed(deviation: float, images: int, max_drop: float) -> int:
    """Images until the 90 % interval of a drop is as wide as what is asked, to either side.

    Args:
        deviation: Of a drop on so many images; it shrinks with the square root of their number.
        images: How many.
        max_drop: The drop that is asked for.
    """
    return int(np.ceil(images * (1.645 * deviation / max(max_drop, 1e-4)) ** 2))
