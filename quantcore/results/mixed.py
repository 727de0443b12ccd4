"""What a search for the layers to leave in float found: points, their frontier, a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.estimate import Estimate, Loss
from quantcore.results.latency import LatencyResult
from quantcore.results.metric import Metric
from quantcore.runtime.plain import plain

FORMAT = "quantcore.mixed/1"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The engine that graphs were timed on.

    Attributes:
        engine: Its name.
        versions: Of its library.
        runs: Timed runs of each graph.
        whole: The float graph's time.
        caveat: What the engine says about INT8 on this machine.
    """

    engine: str
    versions: Mapping[str, str]
    runs: int
    whole: LatencyResult
    caveat: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        found = {
            "engine": self.engine,
            "versions": self.versions,
            "runs": self.runs,
            "interval": "90 %, of the median",
            "float_latency_ms": self.whole,
            "caveat": self.caveat,
        }
        return plain(found)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The whole model with some layers in float.

    Attributes:
        kept: The layers in float, in graph order.
        share: Share of the MACs in INT8, 0..1.
        loss: Against the float model, as measured.
        drop: What was held against the target: the larger of the measured drop and of the one that
            the disagreement with the float model lets expect, plus a margin for the noise.
        metric: What the figures are called.
        latency: On the engine that the search was for; None where the graph was not timed.
        latency_ratio: That over the float model's, in the same turns; below 1 is faster.
    """

    kept: tuple[str, ...]
    share: float
    loss: Loss
    drop: float
    metric: Metric
    latency: LatencyResult | None = None
    latency_ratio: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        found = {
            "kept": self.kept,
            "layers_kept": len(self.kept),
            "int8_share_of_macs": self.share,
            f"{self.metric.name}_drop": self.loss.drop,
            f"{self.metric.kept}_loss": self.loss.disagreement,
            "judged_drop": self.drop,
            "latency_ms": self.latency,
            "latency_ratio": self.latency_ratio,
        }
        return plain(found)


@dataclass(frozen=True)
class Unseen:
    """Points of a search on a split that the search did not see.

    Attributes:
        split: Its name.
        images: How many were run.
        float_figure: The float model's main figure on them.
        losses: For each of `Mixed.shown`.
    """

    split: str
    images: int
    float_figure: Estimate
    losses: tuple[Loss, ...]

    def beside(self, points: Sequence[Point]) -> dict[str, Any]:
        """JSON form."""
        found = {
            "split": self.split,
            "images": self.images,
            f"float_{points[0].metric.name}": self.float_figure,
            "points": [
                {
                    "layers_kept": len(point.kept),
                    "int8_share_of_macs": point.share,
                    f"{point.metric.name}_drop": loss.drop,
                    f"{point.metric.kept}_loss": loss.disagreement,
                }
                for point, loss in zip(points, self.losses, strict=True)
            ],
        }
        return plain(found)


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """What a search found.

    Attributes:
        model: Model name.
        split: What was searched on.
        images: How many.
        max_drop: The target.
        confidence: How surely it had to be met.
        min_int8: Least share of the MACs in INT8.
        float_figure: The float model's main figure on these images.
        chosen: The set of layers; meets the target if `met`, else the nearest to it.
        met: Whether it does.
        points: Everything that was measured, by share.
        policy: For every backend.
        unseen: What is shown, on images that the search did not see.
        speed: The engine whose latency is the cost; None where MACs are.
        landmarks: Sets of most sensitive layers that were measured whatever the search did.
        top: How many most sensitive layers were asked for; None where a search decided.
        manifest: When, with what and on what it was made.
    """

    model: str
    split: str
    images: int
    max_drop: float
    confidence: float
    min_int8: float
    float_figure: Estimate
    chosen: Point
    met: bool
    points: tuple[Point, ...]
    policy: CalibrationPolicy
    unseen: Unseen | None = None
    speed: Speed | None = None
    landmarks: tuple[tuple[str, ...], ...] = ()
    top: int | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """What the figures are called."""
        return self.chosen.metric

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The points that no other beats in both cost and drop, the cheapest first.

        The cost is the latency where an engine was timed, the MACs outside INT8 elsewhere. The
        chosen point is always there: the timed ones may differ by no more than noise.
        """
        timed = [(p.latency.p50_ms, p) for p in self.points if p.latency]
        costs = timed if self.speed else [(-p.share, p) for p in self.points]
        best: list[Point] = []
        lowest = float("inf")
        for _, point in sorted(costs, key=lambda pair: (pair[0], pair[1].drop)):
            if point.drop < lowest or point == self.chosen:
                best.append(point)
                lowest = min(lowest, point.drop)
        return tuple(best)

    @property
    def why_chosen(self) -> str | None:
        """Why a set is chosen that another one beats in both cost and drop; None where none does.

        The drop that is judged has a margin, and so has the drop here.
        """
        mine = self.chosen
        better = [
            p
            for p in self.points
            if p.drop <= mine.drop and self._costs(p) and self._cost(p) < self._cost(mine)
        ]
        if not better:
            return None
        best = min(better, key=self._cost)
        found = f"{len(best.kept)} layers in float cost less and lose no more"
        if self.top is not None:
            return f"{found}, but {self.top} were asked for"
        if self.speed is not None:
            return (
                f"{found} as measured, but their time cannot be told from this one's, which has "
                "more of the MACs in INT8"
            )
        return f"{found}, but less than {self.min_int8:.0%} of the MACs would be in INT8"

    def _costs(self, point: Point) -> bool:
        return point.latency is not None or self.speed is None

    def _cost(self, point: Point) -> float:
        """Milliseconds where an engine was timed, the MACs outside INT8 elsewhere."""
        timed = self.speed is not None and point.latency is not None
        return point.latency.p50_ms if timed and point.latency else -point.share

    @property
    def shown(self) -> tuple[Point, ...]:
        """The frontier and the landmarks, in the order of `points`."""
        best = self.frontier
        return tuple(p for p in self.points if p in best or p.kept in self.landmarks)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, `mixed.json`."""
        found = {
            "format": FORMAT,
            "model": self.model,
            "split": self.split,
            "images": self.images,
            "max_drop": self.max_drop,
            "confidence": self.confidence,
            "min_int8": self.min_int8,
            "top": self.top,
            "interval": "90 % paired bootstrap over images",
            f"float_{self.metric.name}": self.float_figure,
            "speed": self.speed,
            "met": self.met,
            "chosen": self.chosen,
            "why_chosen": self.why_chosen,
            "frontier": self.frontier,
            "points": self.points,
            "unseen": self.unseen.beside(self.shown) if self.unseen else None,
            "manifest": self.manifest,
        }
        return plain(found)

    def policy_yaml(self) -> str:
        """The policy, with a word on where it comes from."""
        verdict = "meets" if self.met else "DOES NOT meet"
        drop = self.chosen.loss.drop
        head = (
            f"# {self.model}: {len(self.chosen.kept)} layers in float, {self.chosen.share:.1%} of "
            f"the MACs in INT8.\n# {verdict} a drop of {self.max_drop} in {self.metric.title}: "
            f"measured {drop.value:+.4f} ({drop.low:+.4f} to {drop.high:+.4f}) on {self.images} "
            f"images of {self.split}.\n"
        )
        if self.speed and self.chosen.latency:
            head += (
                f"# {self.chosen.latency.p50_ms:.1f} ms on {self.speed.engine}, the float model "
                f"{self.speed.whole.p50_ms:.1f} ms.\n"
            )
        return head + yaml.safe_dump(self.policy.to_dict(), sort_keys=False)
