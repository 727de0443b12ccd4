"""What the images cannot tell, and what those that choose have and those to calibrate on lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from quantcore.results.metric import Metric
from quantcore.studies.auto.choice import belief_of, needed
from quantcore.studies.auto.judging import Judged
from quantcore.studies.auto.parts import Parts

#: Names that a warning lists; the rest are counted.
_NAMED = 5

#: COCO's bounds of small and medium objects, square pixels.
_SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}

#: A share of objects of some size is much larger where it is so many times the other one.
_MUCH = 2.0

#: Ranges within this factor are alike, for a maximum is one value of millions.
_REACH = 1.25


def too_few(
    judged: Sequence[Judged], images: int, max_drop: float, metric: Metric
) -> Iterator[str]:
    """Warns where so many images cannot tell the drop that is asked for, and says what they can.

    Args:
        judged: Recipes on the images that choose.
        images: How many those are.
        max_drop: What is asked for.
        metric: What the figure is called.
    """
    known = [one for one in judged if np.isfinite(one.deviation)]
    if not known:
        yield (
            f"the {images} images that choose have no labels: recipes are chosen by the share of "
            f"the float network's {metric.kept} that they lose, and {metric.title} is guessed"
        )
        return
    best = min(known, key=lambda one: float(one.lost[0]))
    margin = 1.645 * best.deviation
    if margin <= max_drop:
        return
    promised = belief_of(best, metric)
    yield (
        f"{images} images are few for a drop of {max_drop:g}: what they measure is sure to "
        f"{margin:.4f} either way, so recipes are chosen mostly by the {metric.kept} that they "
        f"lose; with those, at most {promised.drop + 1.645 * promised.deviation:.4f} can be "
        f"promised of the best so far. About {needed(best.deviation, images, max_drop)} images to "
        "choose by could tell"
    )


def gaps(parts: Parts, reach: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Warns of what the images to calibrate on lack.

    Args:
        parts: Which images do what.
        reach: By activation the largest magnitude on the images to calibrate on, and on those that
            choose.
    """
    have, want = (
        parts.dataset.objects([image.id for image in images])
        for images in (parts.calibrating, parts.choosing)
    )
    yield from _classes(Counter(name for name, _ in have), Counter(name for name, _ in want))
    yield from _sizes(*([a for _, a in seen if a is not None] for seen in (have, want)))
    yield from _activations(reach)


def _classes(have: Counter[str], want: Counter[str]) -> Iterator[str]:
    lacking = [(name, count) for name, count in want.most_common() if name not in have]
    if lacking:
        share = sum(count for _, count in lacking) / want.total()
        names = ", ".join(name for name, _ in lacking[:_NAMED])
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        yield (
            f"the images to calibrate on show nothing of {len(lacking)} of the {len(want)} classes "
            f"of those that choose ({share:.0%} of the objects there): {names}{more}"
        )


def _sizes(have: Sequence[float], want: Sequence[float]) -> Iterator[str]:
    if not have or not want:
        return
    shares = [_shares(np.asarray(areas)) for areas in (have, want)]
    for name, here, there in zip(_SIZES, *shares, strict=True):
        if there > 0.05 and there > _MUCH * here:
            yield (
                f"{name} objects are {here:.0%} of what the images to calibrate on show, and "
                f"{there:.0%} of what those that choose do"
            )


def _shares(areas: np.ndarray) -> list[float]:
    ends = [0.0, *_SIZES.values()]
    return [float(np.mean((areas >= low) & (areas < high))) for low, high in pairwise(ends)]


def _activations(reach: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    beyond = {name: there / here for name, (here, there) in reach.items() if here > 0}
    beyond = {name: factor for name, factor in beyond.items() if factor > _REACH}
    if beyond:
        worst = max(beyond, key=lambda name: beyond[name])
        yield (
            f"{len(beyond)} of {len(reach)} activations reach more than {_REACH:g} times as far on "
            f"the images that choose as on those to calibrate on, {worst} {beyond[worst]:.1f} times"
        )
