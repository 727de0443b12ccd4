"""What a training did, and whether it was worth it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quantcore.results.estimate import Estimate
from quantcore.results.metric import Metric
from quantcore.runtime.plain import plain


@dataclass(frozen=True)
class Losses:
    """The loss of every step, before it.

    Attributes:
        heads: Of the network's outputs.
        features: Of the activations inside it.
    """

    heads: tuple[float, ...]
    features: tuple[float, ...]

    @property
    def total(self) -> tuple[float, ...]:
        """Both together."""
        return tuple(a + b for a, b in zip(self.heads, self.features, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON form; None stands for NaN."""
        return dict(plain({"heads": self.heads, "features": self.features}))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A trained graph against the one that was only calibrated, on images that neither saw.

    Attributes:
        images: How many.
        graphs: Neighbouring graphs on either side; figures are means over them.
        metric: What figures are called, and what is lost: detections, or classes.
        lost: Share of what the float model finds that the trained graph loses.
        lost_before: Likewise of the graph that was only calibrated.
        lost_change: The first less the second, paired by image.
        change: The main figure of the trained graph less the other's, paired by image; None without
            labels.
    """

    images: int
    graphs: int
    metric: Metric
    lost: Estimate
    lost_before: Estimate
    lost_change: Estimate
    change: Estimate | None

    @property
    def better(self) -> bool:
        """Less is lost, beyond what the draw of images explains, and no mAP or top-1 with it."""
        fewer = self.lost_change.high < 0
        return fewer and (self.change is None or not self.change.high < 0)

    @property
    def line(self) -> str:
        """For people."""
        change = self.lost_change
        found = (
            f"on {self.images} images that neither calibration nor training saw, mean of "
            f"{self.graphs} graphs: {self.metric.kept} lost "
            f"{self.lost_before.value:.4f} calibrated, {self.lost.value:.4f} trained "
            f"({change.value:+.4f}, {change.low:+.4f} to {change.high:+.4f})"
        )
        if self.change is not None:
            of = self.change
            found += f"; {self.metric.title} {of.value:+.4f} ({of.low:+.4f} to {of.high:+.4f})"
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON form; None stands for NaN."""
        return dict(
            plain(
                {
                    "images": self.images,
                    "graphs": self.graphs,
                    f"{self.metric.kept}_lost": self.lost,
                    f"{self.metric.kept}_lost_before": self.lost_before,
                    f"{self.metric.kept}_lost_change": self.lost_change,
                    f"{self.metric.name}_change": self.change,
                    "better": self.better,
                }
            )
        )


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a training went; the JSON beside its graphs.

    Attributes:
        parent: Fingerprint of the float model that was trained.
        fingerprint: Of the one that came out.
        backend: Which framework.
        versions: Of it, and of quantcore.
        recipe: As `Recipe.to_dict` gives it.
        image_ids: What was trained on.
        held_out: What the verdict is on.
        losses: Of every step.
        ended: Why it ended early, in one line; None where it did not.
        seconds: Wall time of the steps.
        peak_rss_mb: Peak resident memory of the process.
        parity: Of the trained network in the framework and its ONNX graph.
        verdict: None where no images were set aside.
    """

    parent: str
    fingerprint: str
    backend: str
    versions: Mapping[str, str]
    recipe: Mapping[str, Any]
    image_ids: tuple[int, ...]
    held_out: tuple[int, ...]
    losses: Losses
    ended: str | None
    seconds: float
    peak_rss_mb: float
    parity: float
    verdict: Verdict | None

    @property
    def better(self) -> bool:
        """Whether the trained network is to be used; where nothing tells, it is."""
        return self.ended is None and (self.verdict is None or self.verdict.better)

    @property
    def line(self) -> str:
        """For people: whether it was worth it, and why one knows."""
        known = self.verdict.line if self.verdict else "no images were set aside to judge it on"
        parts = [part for part in (self.ended, known) if part]
        found = "; ".join(parts)
        return found if self.better else f"training did not help, keep the calibrated one: {found}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "format": "quantcore.training/1",
            "parent": self.parent,
            "fingerprint": self.fingerprint,
            "backend": self.backend,
            "versions": dict(self.versions),
            "recipe": dict(self.recipe),
            "image_ids": list(self.image_ids),
            "held_out": list(self.held_out),
            "ended": self.ended,
            "kept": "trained" if self.better else "calibrated",
            "seconds": round(self.seconds, 1),
            "peak_rss_mb": round(self.peak_rss_mb),
            "parity": self.parity,
            "verdict": self.verdict.to_dict() if self.verdict else None,
            "losses": self.losses.to_dict(),
        }
