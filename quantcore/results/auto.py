"""What the search for the cheapest recipe tried, chose, and found on images that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from quantcore.results.estimate import Estimate
from quantcore.results.evidence import Evidence
from quantcore.results.metric import Metric
from quantcore.runtime.plain import own, plain

FORMAT = "quantcore.auto/1"


@dataclass(frozen=True)
class Belief:
    """A drop of the main figure as it is believed, with detections lost and the drop measured.

    Attributes:
        drop: The most likely value on images like these.
        deviation: Its standard deviation; it holds the draw of the images.
        lost: Share of what the float network finds that is lost, which parts recipes that their
            drops do not part.
    """

    drop: float
    deviation: float
    lost: float

    def at(self, confidence: float) -> float:
        """The drop that is not exceeded so surely, 0..1; 0.5 gives the most likely value."""
        return self.drop + NormalDist().inv_cdf(confidence) * self.deviation


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for.

    Attributes:
        max_drop: Largest drop of the main figure.
        min_speedup: Least speed over the fastest float network that meets the drop.
        confidence: How surely a recipe must meet the drop to be taken, 0.5 up to below 1.
        budget: Seconds; None for no limit.
    """

    max_drop: float
    min_speedup: float
    confidence: float
    budget: float | None


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images did what.

    Attributes:
        split: The calibration split.
        seed: Of its division.
        calibrating: Ids of the images that were calibrated and trained on.
        choosing: Ids of those that recipes were chosen by.
        delivered: Ids of those that the network to deploy was calibrated on: both, unless it was
            trained, or stays as it was chosen.
        labelled: Whether those have labels.
        evaluation: The split that was looked at once, at the end.
    """

    split: str
    seed: int
    calibrating: tuple[int, ...]
    choosing: tuple[int, ...]
    delivered: tuple[int, ...]
    labelled: bool
    evaluation: str


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A float network that one would deploy otherwise.

    Attributes:
        engine: Engine name.
        precision: What it computes in.
        ms: Median milliseconds for one image.
        lost: Share of the FP32 network's detections that it loses.
        drop: Loss of the main figure.
        counts: Whether it loses no more than is asked, so that INT8 has to beat it.
    """

    engine: str
    precision: str
    ms: float
    lost: Estimate
    drop: Estimate
    counts: bool

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.precision} on {self.engine}"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A recipe on an engine.

    Attributes:
        rung: Where it comes from.
        name: The recipe in words.
        engine: Engine name.
        graphs: Graphs that stand for it.
        lost: Share of the float network's detections lost, on the images that choose.
        drop: Loss of the main figure there, as measured.
        belief: What is held against the target.
        ms: Median milliseconds for one image.
        speedup: Times as fast as the fastest rival, paired turn by turn.
        accurate: Whether it is believed to lose no more than is asked.
        fast: Whether the low end of its speed is as fast as is asked.
    """

    rung: str
    name: str
    engine: str
    graphs: int
    lost: Estimate
    drop: Estimate
    belief: Belief
    ms: float
    speedup: Estimate
    accurate: bool
    fast: bool

    @property
    def faster(self) -> bool:
        """Whether it is faster than the fastest rival, and not within what times scatter."""
        return self.speedup.low > 1

    @property
    def meets(self) -> bool:
        """Whether both targets are met."""
        return self.accurate and self.fast


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """The chosen recipe on the evaluation split, which nothing was chosen on.

    Attributes:
        split: Its name.
        images: How many.
        graphs: See `Tried`.
        float_figure: The float network's main figure.
        lost: See `Tried`.
        drop: Mean over the graphs.
        graph_drop: Of the very graph that is written.
        speedups: Times as fast as each rival, by the rival's name; measured anew.
        ms: Median milliseconds of the chosen graph, by the name `INT8`, and of the rivals.
        others: Share of the machine's cores that other processes used meanwhile, 0..1; None where
            the system does not tell.
        int8: Layers that run in INT8, and layers that the graph quantizes.
        not_int8: Why layers do not, by layer.
    """

    split: str
    images: int
    graphs: int
    float_figure: Estimate
    lost: Estimate
    drop: Estimate
    graph_drop: float
    speedups: Mapping[str, Estimate]
    ms: Mapping[str, float]
    others: float | None
    int8: tuple[int, int]
    not_int8: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class AutoRecord:
    """The whole search.

    Attributes:
        model: Model name.
        weights: File that was read.
        data: Folder that was read.
        metric: What the figures are called.
        asked: What was asked for.
        images: Which images did what.
        rivals: Float networks, the fastest first.
        tried: Every recipe, in the order in which they were tried.
        chosen: Number of the chosen one in `tried`.
        unseen: What it is worth.
        host: Processor, cores, operating system, Python.
        artifacts: File names in the output folder, by kind.
        optimism: How much too good the chosen figure is for having been chosen, as halves of the
            images tell.
        met: Whether both targets are met on the images that nothing was chosen on.
        verdict: The end in words, a sentence an entry.
        warnings: What to know about the images.
        notes: What else a person should know although nothing failed.
        skipped: Rungs that were not climbed, and why.
        seconds: Wall time.
        evidence: A closer look at the chosen network.
        manifest: When, with what and on what it was made.
    """

    model: str
    weights: str
    data: str
    metric: Metric
    asked: Asked
    images: Images
    rivals: tuple[Rival, ...]
    tried: tuple[Tried, ...]
    chosen: int
    unseen: Unseen
    host: Mapping[str, Any]
    artifacts: Mapping[str, str]
    optimism: float = 0.0
    met: bool = False
    verdict: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    evidence: Evidence = field(default_factory=Evidence)
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Tried:
        """The chosen recipe."""
        return self.tried[self.chosen]

    @property
    def speedup(self) -> Estimate:
        """Of the chosen recipe over the fastest float network that counts, measured at the end."""
        counting = [rival.name for rival in self.rivals if rival.counts]
        found = [self.unseen.speedups[name] for name in counting or self.unseen.speedups]
        return min(found, key=lambda speedup: speedup.value)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, `auto.json`; None stands for NaN."""
        found = {"format": FORMAT, **own(self), "metric": self.metric.name, **own(self.evidence)}
        del found["evidence"]
        return dict(plain(found))
