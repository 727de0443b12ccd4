"""The cheapest set of layers to leave in float so that the whole model loses at most so much."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from quantcore.data.dataset import Dataset
from quantcore.errors import UsageError
from quantcore.results.estimate import Loss
from quantcore.results.mixed import Mixed, Point, Unseen
from quantcore.results.sensitivity import Sensitivity
from quantcore.runtime.jobs import Runtime
from quantcore.studies.accuracy import Scorer
from quantcore.studies.graph_job import Candidate
from quantcore.studies.keep import keeping
from quantcore.studies.macs import macs_of
from quantcore.studies.runs import GraphRuns
from quantcore.studies.search import Kept, Search
from quantcore.studies.sensitivity import StudiedModel

#: Numbers of most sensitive layers that are always measured, so that the frontier has a shape.
LANDMARKS = (0, 3, 5, 10)

#: Width of the kernel that pools drops: sets whose losses differ by this factor's logarithm.
_KERNEL = math.log(1.5)

Say = Callable[[str], None]


class WholeModelEvaluator:
    """Measures the whole model with some layers in float; keeps all that it measured.

    Args:
        studied: Model, table, policy.
        runs: The images.
        scorer: Holds outcomes against the float model.
        say: Is given a line for each measurement.
        confidence: See `SearchTarget`.
    """

    def __init__(
        self, studied: StudiedModel, runs: GraphRuns, scorer: Scorer, say: Say, confidence: float
    ) -> None:
        self.studied, self.points = studied, dict[Kept, Point]()
        self._runs, self._scorer, self._say = runs, scorer, say
        self._margin = NormalDist().inv_cdf(confidence)
        self._macs = macs_of(studied.model)
        self._names = studied.layers

    def drop(self, kept: Kept) -> float:
        """What is held against the target; see `Point`."""
        return self.point(kept).drop

    def point(self, kept: Kept) -> Point:
        """The measured point; measured once."""
        if kept not in self.points:
            order = tuple(name for name in self._names if name in kept)
            policy = keeping(self.studied.policy, order)
            what = f"{len(order)} layers in float"
            loss = self._scorer.loss(
                self._runs.run([self.studied.candidate(what, policy)], what, shared=False)[0]
            )
            share = self.share(kept)
            # The interval holds the middle 90 % of the draws: 1.645 deviations to either side.
            deviation = (loss.drop.high - loss.drop.low) / 2 / NormalDist().inv_cdf(0.95)
            measured = max(loss.drop.value, self._expected(loss))
            drop = measured + self._margin * deviation
            metric = self._runs.task.metric
            found = Point(kept=order, share=share, loss=loss, drop=drop, metric=metric)
            self.points[kept] = found
            self._say(_line(found))
        return self.points[kept]

    def share(self, kept: Kept) -> float:
        """Share of the MACs in INT8."""
        total = sum(self._macs.values())
        return sum(self._macs[n] for n in self._names if n not in kept) / total if total else 0.0

    def _expected(self, loss: Loss) -> float:
        """The drop that goes with a disagreement with the float model, by all points so far.

        What is found agrees with hardly any noise, the main figure on few images has much: a set
        that was merely lucky must not pass by its luck. The drops of sets that disagree alike, near
        ones counting more, are pooled by a kernel (Nadaraya 1964) on the logarithm of that.
        """
        mine = loss.disagreement.value
        if mine <= 0:
            return 0.0
        losses = [point.loss for point in self.points.values()] + [loss]
        x = np.asarray([entry.disagreement.value for entry in losses])
        y = np.asarray([entry.drop.value for entry in losses])
        away = np.log(np.maximum(x, 1e-9) / mine) / _KERNEL
        weights = np.exp(-np.square(away) / 2)
        return float(weights @ y) / float(weights @ x) * mine


def _line(point: Point) -> str:
    drop = -point.loss.drop
    return (
        f"{len(point.kept):3d} layers in float, {point.share:6.1%} of the MACs in INT8: "
        f"{point.metric.title} {drop.value:+.4f} ({drop.low:+.4f} to {drop.high:+.4f}), "
        f"with margin {-point.drop:+.4f}"
    )


@dataclass(frozen=True)
class SearchTarget:
    """What is asked for.

    Attributes:
        max_drop: The model may lose so much of its main figure.
        min_int8: At least so much of the MACs stays in INT8, 0..1.
        top: Keep exactly so many most sensitive layers instead of searching.
        budget: Most measurements after the bisection.
        confidence: How sure to be that images like these lose no more, 0.5 (the bare estimate)
            up to below 1. A search takes the cheapest that passes, which is what noise flatters
            most, so the bare estimate breaks its promise on other images.
    """

    max_drop: float = 0.005
    min_int8: float = 0.8
    top: int | None = None
    budget: int = 60
    confidence: float = 0.8

    def __post_init__(self) -> None:
        """Raises UsageError for figures outside their range."""
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"--confidence must lie in 0.5..1, below 1, not {self.confidence}")
        if not (0 <= self.min_int8 <= 1 and self.max_drop >= 0 and self.budget >= 0):
            raise UsageError(
                f"--min-int8 must lie in 0..1 and --max-drop be 0 or more, not {self.min_int8} "
                f"and {self.max_drop}"
            )


def find(
    studied: StudiedModel,
    ranking: Sensitivity,
    dataset: Dataset,
    runtime: Runtime,
    target: SearchTarget,
    *,
    images: int | None = None,
    workers: int | None = None,
    say: Say = lambda line: None,
) -> Mixed:
    """Searches for the layers to leave in float.

    Args:
        studied: Model, table, policy.
        ranking: Of its layers, on the same split.
        dataset: Images with labels.
        runtime: Where it is done and kept.
        target: What is asked for.
        images: How many images; None for all.
        workers: Images in flight.
        say: Is given a line for each measurement.

    Raises:
        UsageError: No labels to measure the main figure with.
    """
    chosen = dataset.select(images)
    runs = GraphRuns(studied.model, dataset, chosen, runtime, workers)
    reference = runs.run([Candidate("float", studied.model.proto)], "float model")[0]
    scorer = Scorer(runs.task, dataset, reference, runtime)
    if not scorer.labelled:
        raise UsageError(f"{dataset.source}: the search needs labels, these images have none")
    whole = WholeModelEvaluator(studied, runs, scorer, say, target.confidence)
    best, met = _search(whole, ranking, target)
    points = sorted(whole.points.values(), key=lambda p: (-p.share, p.drop))
    policy = keeping(studied.policy, best.kept)
    return Mixed(
        model=studied.model.name,
        split=ranking.split,
        images=len(chosen),
        max_drop=target.max_drop,
        confidence=target.confidence,
        min_int8=target.min_int8,
        float_figure=scorer.float_figure,
        chosen=best,
        met=met,
        points=tuple(points),
        policy=policy,
        landmarks=tuple(whole.point(kept).kept for kept in _landmarks(ranking)),
        top=target.top,
    )


def verify(
    studied: StudiedModel,
    found: Mixed,
    dataset: Dataset,
    split: str,
    runtime: Runtime,
    *,
    images: int | None = None,
    workers: int | None = None,
) -> Mixed:
    """Measures the frontier again on images that the search did not see; see `find`."""
    chosen = dataset.select(images)
    runs = GraphRuns(studied.model, dataset, chosen, runtime, workers)
    reference = runs.run([Candidate("float", studied.model.proto)], f"float model, {split}")[0]
    scorer = Scorer(runs.task, dataset, reference, runtime)
    losses = []
    for point in found.shown:
        what = f"{len(point.kept)} layers in float, {split}"
        candidate = studied.candidate(what, keeping(studied.policy, point.kept))
        losses.append(scorer.loss(runs.run([candidate], what, shared=False)[0]))
    unseen = Unseen(split, len(chosen), scorer.float_figure, tuple(losses))
    return replace(found, unseen=unseen)


def _search(
    whole: WholeModelEvaluator, ranking: Sensitivity, target: SearchTarget
) -> tuple[Point, bool]:
    """The chosen point, and whether it meets the target."""
    by_loss = [cost.layer for cost in ranking.layers]
    landmarks = _landmarks(ranking)
    for landmark in landmarks:
        whole.point(landmark)
    if target.top is not None:
        point = whole.point(frozenset(by_loss[: target.top]))
        return point, point.drop <= target.max_drop
    macs = macs_of(whole.studied.model)
    search = Search(macs, by_loss, whole.drop, target.max_drop, target.min_int8, target.budget)
    found = search.run([by_loss, _by_yield(ranking, macs)], landmarks)
    return whole.point(found.kept), search.meets(found)


def _landmarks(ranking: Sensitivity) -> list[Kept]:
    """The most sensitive layers, so many as `LANDMARKS` says."""
    return [frozenset(cost.layer for cost in ranking.layers[:count]) for count in LANDMARKS]


def _by_yield(ranking: Sensitivity, macs: Mapping[str, int]) -> list[str]:
    """Layers by what keeping them gains for each MAC; those without any come first."""
    costs = sorted(
        ranking.layers,
        key=lambda c: c.by(ranking.method) / macs[c.layer] if macs[c.layer] else float("inf"),
        reverse=True,
    )
    return [cost.layer for cost in costs]
