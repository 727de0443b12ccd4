"""Results as tables on the terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantcore.results.audit import SimulationAudit
from quantcore.results.comparison import Evaluated
from quantcore.results.difference import TableDifference
from quantcore.results.estimate import Estimate
from quantcore.results.latency import LatencyResult
from quantcore.showing import for_terminal, one_line


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
    """Prints a text, whatever the names in it hold; broken between words on a terminal alone."""
    print(for_terminal(one_line(line), sys.stdout))


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
    """The audit in one line: decibels as what they are of the signal, which people know."""
    return (
        f"audit: the graph computes what {backend} itself simulates: no layer differs by more than "
        f"{_share_of_signal(found.worst_db)} of its signal (most: {found.worst_tensor}); from the "
        f"image to the heads these add up to {_share_of_signal(found.end_to_end_db)}"
    )


def _share_of_signal(decibels: float) -> str:
    """An SQNR as the difference over the signal, both as root mean squares."""
    return f"{100 * 10 ** (-decibels / 20):.2g} %" if decibels > 0 else "100 %"


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
