"""What a comparison found: numbers with units, ready for JSON; they never render themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcore.results.audit import Int8Audit, SimulationAudit
from quantcore.results.estimate import Estimate, FigureDraws, Neighbours
from quantcore.results.evaluation import Accuracy
from quantcore.results.evidence import Evidence
from quantcore.results.latency import LatencyResult
from quantcore.results.metric import Metric
from quantcore.results.verdict import Verdict, verdict
from quantcore.runtime.plain import own, plain

FORMAT = "quantcore.report/1"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One graph on one engine.

    Attributes:
        accuracy: The task's figures, and time per image outside the engine.
        latency: Of the engine alone; None where it was not measured.
        engine: Engine name.
        versions: Of its library.
        peak_rss_mb: Of the process that evaluated.
        int8: Which of the quantized layers the engine really runs in INT8, None for a float graph
            or a plan.
        draws: The main figure under a bootstrap of the images.
        runs_on: Where it ran, as the engine tells.
    """

    accuracy: Accuracy
    latency: LatencyResult | None
    engine: str
    versions: Mapping[str, str]
    peak_rss_mb: float
    int8: Int8Audit | None = None
    draws: FigureDraws | None = None
    runs_on: str = ""

    @property
    def metric(self) -> Metric:
        """What the figures are called."""
        return self.accuracy.metric

    def to_dict(self) -> dict[str, Any]:
        """JSON form; the task's figures lie flat beside the rest."""
        latency, main = self.latency, self.metric.name
        found: dict[str, object] = {
            "engine": self.engine,
            "runs_on": self.runs_on,
            **plain(self.accuracy),
            f"{main}_interval": self.draws.estimate if self.draws else None,
            **_latency(latency),
            "evaluation_peak_rss_mb": self.peak_rss_mb,
            "int8": self.int8,
        }
        return plain(found)


def _latency(found: LatencyResult | None) -> dict[str, Any]:
    """JSON form, flat beside the rest."""
    names = ("p50", "p90", "p99", "mean", "low", "high")
    return {
        "latency_ms": {p: getattr(found, f"{p}_ms", None) for p in names},
        "images_per_second": found and found.images_per_second,
        "latency_batch_size": found and found.batch_size,
        "latency_device_p50_ms": found and found.device_p50_ms,
        "latency_others_share_of_cores": found and found.others,
    }


@dataclass(frozen=True, kw_only=True)
class LeftInFloat:
    """What a search left in float, and how near it came to its target.

    Attributes:
        layers: In graph order.
        max_drop: The target.
        met: Whether the target is met where it was searched.
        drop: Loss of the main figure where it was searched.
        split: The images that were searched on.
        images: How many.
        metric: What that figure is called.
    """

    layers: tuple[str, ...]
    max_drop: float
    met: bool
    drop: Estimate
    split: str
    images: int
    metric: Metric

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        found = {
            "layers": self.layers,
            "max_drop": self.max_drop,
            "met": self.met,
            f"{self.metric.name}_drop": self.drop,
            "split": self.split,
            "images": self.images,
        }
        return plain(found)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One column of a comparison: the float model, or what one backend made of it.

    Attributes:
        backend: Backend name, None for the float model.
        evaluated: Accuracy and speed.
        calibration_seconds: Wall time of the calibration; 0 for the float model.
        peak_rss_mb: Of the process that calibrated (for the float model: that evaluated).
        onnx_bytes: Size of the graph file.
        artifacts: File names in the output folder, by kind.
        versions: Of everything that took part.
        policy: As applied, None for the float model.
        pairs: Q/DQ pairs on activations and weights.
        audit: The Q/DQ graph against the framework's own simulation.
        parity: Relative difference of the framework's float network from the float graph.
        difference: The main figure less the float model's on the same engine and images; None for
            the float model, and where that failed.
        latency_ratio: Latency over the float model's on the same engine, in the same turns: below 1
            is faster; None as `difference`.
        macs_in_int8: Share of the MACs in quantized layers, 0..1; None for the float model.
        step: What was done beyond calibration: `mixed`, a correction's name, `trained`; empty for
            nothing.
        note: What that did, in one line.
        left: What a search left in float; None where there was none.
        neighbours: What graphs that hardly differ lose; None where they were not asked for.
    """

    backend: str | None
    evaluated: Evaluated
    calibration_seconds: float
    peak_rss_mb: float
    onnx_bytes: int
    artifacts: Mapping[str, str]
    versions: Mapping[str, str]
    policy: Mapping[str, Any] | None = None
    pairs: Mapping[str, int] = field(default_factory=dict)
    audit: SimulationAudit | None = None
    parity: float | None = None
    difference: Estimate | None = None
    latency_ratio: Estimate | None = None
    macs_in_int8: float | None = None
    step: str = ""
    note: str = ""
    left: LeftInFloat | None = None
    neighbours: Neighbours | None = None

    @property
    def title(self) -> str:
        """How the graph is called in tables."""
        step = f", {self.step}" if self.step else ""
        return f"{self.backend or 'float'}{step}"

    @property
    def name(self) -> str:
        """How the variant is called."""
        return f"{self.title} on {self.evaluated.engine}"

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        found: dict[str, object] = {
            "backend": self.backend,
            "step": self.step,
            "note": self.note,
            **self.evaluated.to_dict(),
            f"{self.evaluated.metric.name}_difference": self.difference,
            "latency_ratio": self.latency_ratio,
            "int8_share_of_macs": self.macs_in_int8,
            "mixed": self.left,
            "neighbours": self.neighbours,
            "calibration_seconds": self.calibration_seconds,
            "peak_rss_mb": self.peak_rss_mb,
            "sizes": {"onnx_bytes": self.onnx_bytes},
            "qdq_pairs": self.pairs,
            "audit": self.audit,
            "parity": self.parity,
            "artifacts": self.artifacts,
            "versions": self.versions,
            "policy": self.policy,
        }
        return plain(found)


@dataclass(frozen=True)
class Failure:
    """A backend, or its graph on one engine, that did not make it, and why."""

    backend: str
    engine: str | None
    error: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A whole comparison.

    Attributes:
        model: Model name.
        weights: File that was read.
        data: Folder that was read.
        floats: The unquantized model, on each engine.
        variants: What each backend made of it, on each engine.
        failures: What did not finish.
        thresholds: Every backend's activation thresholds and their ratios to the first backend's.
        host: Processor, cores, operating system, Python.
        rewrites: What was done to the float model before the backends got it, a line each.
        evidence: A closer look.
        manifest: When, with what and on what it was made.
        notes: What a person should know although nothing failed.
    """

    model: str
    weights: str
    data: str
    floats: tuple[Variant, ...]
    variants: tuple[Variant, ...]
    failures: tuple[Failure, ...] = ()
    thresholds: tuple[Mapping[str, Any], ...] = ()
    host: Mapping[str, Any] = field(default_factory=dict)
    rewrites: tuple[str, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        return verdict(self.floats, self.variants)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, `report.json`."""
        found = {
            "format": FORMAT,
            "model": self.model,
            "metric": self.floats[0].evaluated.metric.name,
            "weights": self.weights,
            "data": self.data,
            "verdict": self.verdict,
            "host": self.host,
            "rewrites": self.rewrites,
            "float": self.floats[0],
            "floats": self.floats,
            "variants": self.variants,
            "thresholds": self.thresholds,
            **own(self.evidence),
            "manifest": self.manifest,
            "notes": self.notes,
            "failures": self.failures,
        }
        return dict(plain(found))
