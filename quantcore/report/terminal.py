"""Results as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantcore.results.audit import Int8Audit, SimulationAudit
from quantcore.results.comparison import Evaluated, LeftInFloat, RunRecord, Variant
from quantcore.results.difference import TableDifference
from quantcore.results.estimate import Estimate, Neighbours
from quantcore.results.latency import LatencyResult
from quantcore.showing import one_line


def figure(value: float | None, digits: int = 3) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def estimate(found: Estimate | None, digits: int = 3, sign: str = "") -> str:
    """A figure and its interval, or a dash where there is none.

    Args:
        found: The figure.
        digits: Behind the point.
        sign: `+` where a difference is shown.
    """
    if found is None or not math.isfinite(found.value):
        return "-"
    value, low, high = (f"{v:{sign}.{digits}f}" for v in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})"


def intervals(found: Estimate) -> str:
    """What the interval behind a figure is, in words."""
    return f"{found.level:.0%} of {found.draws} draws of the images"


class PlainConsole(Console):
    """A console that takes every text for what it says: names of layers are nobody's markup."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text itself, its control characters spelled out."""
        return super().render_str(one_line(text), **{**options, "markup": False, "emoji": False})


def console() -> Console:
    """Standard output; wide where it is not a terminal, so that logs keep their tables whole."""
    found = PlainConsole()
    return found if found.is_terminal else PlainConsole(width=160)


def say(line: str) -> None:
    """Prints one line, whatever the names in it hold."""
    print(one_line(line))


def comparison(record: RunRecord) -> Table:
    """The table that `compare` ends with: a column for each variant."""
    table = Table(title=f"{record.model}, float and quantized", title_justify="left")
    table.add_column("")
    variants = (*record.floats, *record.variants)
    columns = [_column(variant) for variant in variants]
    for variant in variants:
        table.add_column(variant.name, justify="right", overflow="fold")
    for name in columns[0]:
        values = [column[name] for column in columns]
        if name not in _WHERE_KNOWN or set(values) != {"-"}:
            table.add_row(name, *values)
    known = next((v.difference for v in variants if v.difference), None)
    if known is not None:
        table.caption = f"in brackets: {intervals(known)}, float and quantized on the same ones"
    return table


#: Rows that are left out where there is nothing to tell.
_WHERE_KNOWN = (
    "mean of similar graphs",
    "on the device p50, ms",
    "runs on",
    "left in float by the search",
)


def _column(variant: Variant) -> dict[str, str]:
    accuracy, latency = variant.evaluated.accuracy, variant.evaluated.latency
    metric, figures = accuracy.metric, accuracy.figures()
    quantized = variant.backend is not None
    return {
        metric.title: figure(accuracy.main),
        f"{metric.title} against float": estimate(variant.difference, sign="+"),
        "mean of similar graphs": _mean(variant.neighbours),
        metric.runner_up[1]: figure(figures[metric.runner_up[0]]),
        "latency p50, ms": figure(latency.p50_ms if latency else None, 1),
        "latency over float's": estimate(variant.latency_ratio, 2),
        "latency p99, ms": figure(latency.p99_ms if latency else None, 1),
        "on the device p50, ms": figure(latency.device_p50_ms if latency else None, 2),
        "runs on": variant.evaluated.runs_on or "-",
        "calibration, s": figure(variant.calibration_seconds if quantized else None, 1),
        "peak memory, MB": figure(variant.peak_rss_mb, 0),
        "ONNX file, MB": figure(variant.onnx_bytes / 1e6, 2),
        "Q/DQ pairs": str(sum(variant.pairs.values())) if quantized else "-",
        "quantized layers in INT8": _int8(variant.evaluated.int8),
        "MACs in quantized layers": _share(variant.macs_in_int8),
        "left in float by the search": _left(variant.left),
        "audit, worst layer, dB": figure(variant.audit.worst_db, 1) if variant.audit else "-",
    }


def _share(found: float | None) -> str:
    return "-" if found is None else f"{found:.1%}"


def _mean(found: Neighbours | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:+.3f} ± {found.error:.3f} ({len(found.differences)} graphs)"


def _left(found: LeftInFloat | None) -> str:
    if found is None:
        return "-"
    return f"{len(found.layers)} layers{'' if found.met else ', target missed'}"


def _int8(found: Int8Audit | None) -> str:
    if found is None:
        return "-"
    return f"{found.int8} of {len(found.layers)}" if found.verified else "not verified"


def caveats(record: RunRecord) -> list[str]:
    """What is to be said of the variants, and of INT8 on this machine, each once."""
    notes = [f"{v.backend}, {v.step}: {v.note}" for v in record.variants if v.note]
    audits = (v.evaluated.int8 for v in record.variants)
    told = dict.fromkeys([*notes, *(a.caveat for a in audits if a and a.caveat)])
    busy = load(v.evaluated.latency for v in (*record.floats, *record.variants))
    return [*told, busy] if busy else [*told]


def evaluation(found: Evaluated) -> Table:
    """The task's figures and the times of one graph."""
    accuracy, latency = found.accuracy, found.latency
    table = Table(title=f"{accuracy.images} images on {found.engine}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in accuracy.figures().items():
        table.add_row(name, figure(value))
    if found.draws:
        drawn = found.draws.estimate
        table.add_section()
        table.add_row(f"{accuracy.metric.name}, {intervals(drawn)}", estimate(drawn))
    table.add_section()
    for name, value in (
        ("preprocessing, ms per image", accuracy.preprocess_ms),
        ("inference, ms per image", accuracy.inference_ms),
        ("postprocessing, ms per image", accuracy.postprocess_ms),
        *(_times(latency) if latency else ()),
        ("peak memory, MB", found.peak_rss_mb),
    ):
        if value is not None:
            table.add_row(name, figure(value, 1))
    if found.runs_on:
        table.add_row("runs on", found.runs_on)
    return table


def _times(latency: LatencyResult) -> tuple[tuple[str, float | None], ...]:
    return (
        (f"latency p50, ms at batch {latency.batch_size}", latency.p50_ms),
        ("latency p90, ms", latency.p90_ms),
        ("latency p99, ms", latency.p99_ms),
        ("on the device p50, ms", latency.device_p50_ms),
        ("throughput, images per second", latency.images_per_second),
    )


def load(found: Iterable[LatencyResult | None]) -> str | None:
    """What other work on the machine did to latencies; None where it was quiet."""
    shares = [each.others for each in found if each and each.others and each.disturbed]
    if not shares:
        return None
    return (
        f"while latencies were measured, other programs used up to {max(shares):.0%} of this "
        "machine's cores: ratios still compare like with like, milliseconds are longer than on a "
        "quiet machine"
    )


def audit(found: SimulationAudit, backend: str) -> str:
    """The audit in one line."""
    return (
        f"audit: Q/DQ graph against {backend}'s own simulation: every layer within "
        f"{found.worst_db:.1f} dB SQNR (worst: {found.worst_tensor}), raw heads "
        f"{found.heads_db:.1f} dB; end to end {found.end_to_end_db:.1f} dB, where moving the "
        f"scales by one unit in the last place puts the graph {found.floor_db:.1f} dB from itself"
    )


def table_difference(found: TableDifference, first: str, second: str, top: int) -> Table:
    """The tensors on which two calibration tables disagree most."""
    table = Table()
    table.add_column("tensor", overflow="fold")
    table.add_column("role")
    for column in (f"amax in {first}", f"amax in {second}", "second / first"):
        table.add_column(column, justify="right")
    if found.has_noise:
        for column in ("SQNR first, dB", "SQNR second, dB", "second - first, dB"):
            table.add_column(column, justify="right")
    for tensor in found.tensors[:top]:
        row = [f"{tensor.first:.6g}", f"{tensor.second:.6g}", f"{tensor.ratio:.4f}"]
        if found.has_noise:
            row += [figure(tensor.first_db, 2), figure(tensor.second_db, 2)]
            row += ["-" if tensor.decibels is None else f"{tensor.decibels:+.2f}"]
        table.add_row(tensor.tensor, tensor.role, *row)
    return table
