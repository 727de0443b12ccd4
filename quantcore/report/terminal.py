"""Results as tables on the terminal."""

from __future__ import annotations

from rich.table import Table

from quantcore.analysis.agreement import Audit
from quantcore.registry import PluginInfo
from quantcore.report.record import Evaluated, RunRecord, Variant


def figure(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def comparison(record: RunRecord) -> Table:
    """The table that `compare` ends with."""
    engine = record.float_model.evaluated.engine
    table = Table(title=f"{record.model}: float and quantized, on {engine}", title_justify="left")
    table.add_column("variant", no_wrap=True)
    for column in (
        "mAP",
        "AP50",
        "ΔmAP",
        "p50 ms",
        "p99 ms",
        "calib. s",
        "peak MB",
        "ONNX MB",
        "Q/DQ",
        "audit dB",
    ):
        table.add_column(column, justify="right")
    for variant in (record.float_model, *record.variants):
        table.add_row(*_row(variant, record.float_model))
    return table


def _row(variant: Variant, baseline: Variant) -> list[str]:
    detection, latency = variant.evaluated.detection, variant.evaluated.latency
    base = baseline.evaluated.detection.map
    quantized = variant.backend is not None
    delta = "-"
    if quantized and detection.map is not None and base is not None:
        delta = f"{detection.map - base:+.3f}"
    return [
        variant.name,
        figure(detection.map),
        figure(detection.map50),
        delta,
        figure(latency.p50_ms, 1),
        figure(latency.p99_ms, 1),
        figure(variant.calibration_seconds if quantized else None, 1),
        figure(variant.peak_rss_mb, 0),
        figure(variant.onnx_bytes / 1e6, 2),
        str(sum(variant.pairs.values())) if quantized else "-",
        figure(variant.audit.worst_db, 1) if variant.audit else "-",
    ]


def evaluation(found: Evaluated) -> Table:
    """The twelve COCO figures and the times of one graph."""
    detection, latency = found.detection, found.latency
    table = Table(title=f"{detection.images} images on {found.engine}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in detection.figures().items():
        table.add_row(name, figure(value))
    table.add_section()
    for name, value in (
        ("preprocessing, ms per image", detection.preprocess_ms),
        ("inference, ms per image", detection.inference_ms),
        ("postprocessing, ms per image", detection.postprocess_ms),
        (f"latency p50, ms at batch {latency.batch_size}", latency.p50_ms),
        ("latency p90, ms", latency.p90_ms),
        ("latency p99, ms", latency.p99_ms),
        ("throughput, images per second", latency.images_per_second),
        ("peak memory, MB", found.peak_rss_mb),
    ):
        table.add_row(name, figure(value, 1))
    return table


def audit(found: Audit, backend: str) -> str:
    """The audit in one line."""
    return (
        f"audit: Q/DQ graph against {backend}'s own simulation: every layer within "
        f"{found.worst_db:.1f} dB SQNR (worst: {found.worst_tensor}), raw heads "
        f"{found.heads_db:.1f} dB; end to end {found.end_to_end_db:.1f} dB, where moving the "
        f"scales by one unit in the last place puts the graph {found.floor_db:.1f} dB from itself"
    )


def plugins(found: list[PluginInfo]) -> Table:
    """Installed plugins, and what is in the way of the others."""
    table = Table()
    for column in ("kind", "name", "distribution", "version", "status"):
        table.add_column(column)
    for info in found:
        table.add_row(
            info.group.rpartition(".")[2],
            info.name,
            info.distribution,
            info.version,
            info.unavailable or "available",
        )
    return table
