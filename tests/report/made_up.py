"""Variants of a comparison, made up."""

from quantcore.results.audit import Int8Audit, LayerAudit
from quantcore.results.comparison import Evaluated, Variant
from quantcore.results.estimate import Estimate
from quantcore.results.evaluation import DetectionResult
from quantcore.results.latency import LatencyResult
from quantcore.results.metric import COCO

WHY = "its output goes to LeakyRelu instead of QuantizeLinear"


def latency(ms: float, others: float = 0.0) -> LatencyResult:
    return LatencyResult(
        p50_ms=ms,
        p90_ms=ms,
        p99_ms=ms,
        mean_ms=ms,
        batch_size=1,
        images_per_second=1e3 / ms,
        runs=50,
        low_ms=ms * 0.98,
        high_ms=ms * 1.02,
        others=others,
    )


def variant(
    engine: str,
    ms: float,
    backend: str | None = None,
    figure: float | None = 0.5,
    ratio: float | None = None,
    change: float | None = None,
    int8: int = 0,
    caveat: str | None = None,
) -> Variant:
    figures = dict.fromkeys(COCO.figures, 0.5) | {"map": figure}
    layers = tuple(
        LayerAudit(
            node=f"conv{n}",
            op="Conv",
            runs_as="Conv",
            precision="int8" if n < int8 else "fp32",
            why=None if n < int8 else WHY,
        )
        for n in range(4)
    )
    return Variant(
        backend=backend,
        evaluated=Evaluated(
            accuracy=DetectionResult(**figures, images=100),
            latency=latency(ms),
            engine=engine,
            versions={},
            peak_rss_mb=100.0,
            int8=Int8Audit(engine, {}, layers, caveat) if backend else None,
        ),
        calibration_seconds=1.0,
        peak_rss_mb=100.0,
        onnx_bytes=1000 if backend else 4000,
        artifacts={"onnx": f"{backend or 'float'}.onnx"},
        versions={},
        difference=None if change is None else Estimate(change, change - 0.001, change + 0.001),
        latency_ratio=None if ratio is None else Estimate(ratio, ratio * 0.97, ratio * 1.03),
    )


FLOATS = (variant("ort", 20.0), variant("ov", 25.0))
SLOW = variant("ort", 40.0, "paddle", 0.499, 2.0, -0.001)
GOOD = variant("ov", 10.0, "paddle", 0.499, 0.4, -0.001, int8=4)
