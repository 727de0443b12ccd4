"""Studies as tables on the terminal."""

from __future__ import annotations

import math

from rich.table import Table

from quantcore.report.terminal import estimate
from quantcore.results.latency import LatencyResult
from quantcore.results.metric import Metric
from quantcore.results.mixed import Mixed
from quantcore.results.sensitivity import Sensitivity

#: Rows on the terminal; the JSON has all layers.
SHOWN = 25


def _decibels(value: float) -> str:
    return "-" if math.isnan(value) else "no error" if value == math.inf else f"{value:.1f}"


def sensitivity(found: Sensitivity, shown: int = SHOWN) -> Table:
    """The most sensitive layers."""
    title = (
        f"{found.model}: each layer quantized alone, {found.images} images of {found.split}, float "
        f"{found.metric.title} {estimate(found.float_figure)}; ranked by {found.method}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("rank", justify="right")
    for column in ("layer", "op"):
        table.add_column(column, overflow="fold")
    for column in ("M MACs", *_lost(found.metric), "heads, dB", "layer, dB"):
        table.add_column(column, justify="right")
    for rank, cost in enumerate(found.layers[:shown], 1):
        table.add_row(
            str(rank),
            cost.layer,
            cost.op,
            f"{cost.macs / 1e6:.1f}",
            estimate(-cost.loss.drop, 4, "+"),
            estimate(-cost.loss.disagreement, 4, "+"),
            _decibels(cost.loss.heads_db),
            _decibels(cost.loss.layer_db),
        )
    if len(found.layers) > shown:
        table.caption = f"{len(found.layers) - shown} layers that cost less are in the JSON"
    return table


def _lost(metric: Metric) -> tuple[str, str]:
    """Columns of what changes against the float model; less is negative."""
    return f"{metric.title} against float", f"{metric.kept} against float"


def _latency(found: LatencyResult | None) -> str:
    """Median and interval, or a dash where a graph was not timed."""
    return f"{found.p50_ms:.1f} ({found.low_ms:.1f} to {found.high_ms:.1f})" if found else "-"


def mixed(found: Mixed) -> Table:
    """The frontier, the chosen set marked."""
    title = f"{found.model}: layers in float, {found.images} images of {found.split}"
    table = Table(title=title, title_justify="left")
    for column in ("", "layers in float", "MACs in INT8", *_lost(found.metric)):
        table.add_column(column, justify="right")
    if found.speed is not None:
        table.add_column(f"ms on {found.speed.engine}", justify="right")
        table.caption = f"the float model takes {_latency(found.speed.whole)} ms"
    again = found.unseen
    if again is not None:
        table.add_column(f"{found.metric.title} on {again.split}", justify="right")
    for number, point in enumerate(found.shown):
        table.add_row(
            "chosen" if point == found.chosen else "",
            str(len(point.kept)),
            f"{point.share:.1%}",
            estimate(-point.loss.drop, 4, "+"),
            estimate(-point.loss.disagreement, 4, "+"),
            *([_latency(point.latency)] if found.speed else []),
            *([estimate(-again.losses[number].drop, 4, "+")] if again else []),
        )
    return table


def verdict(found: Mixed) -> str:
    """Whether the target is met, and how near the search came, in one line."""
    chosen = found.chosen
    figures = (
        f"{len(chosen.kept)} layers in float, {chosen.share:.1%} of the MACs in INT8, "
        f"{found.metric.title} against float {estimate(-chosen.loss.drop, 4, '+')} on "
        f"{found.split}, with margin {-chosen.drop:+.4f} (confidence {found.confidence:g})"
    )
    if found.speed:
        figures += f", {_latency(chosen.latency)} ms on {found.speed.engine}"
        if chosen.latency_ratio and chosen.latency_ratio.low > 1:
            figures += f", where the float model is faster: {_latency(found.speed.whole)} ms"
    if found.why_chosen:
        figures += f"; {found.why_chosen}"
    if found.met:
        return f"target {found.max_drop:g} met: {figures}"
    if found.top is not None:
        return f"target {found.max_drop:g} NOT met, {found.top} asked for: {figures}"
    return (
        f"target {found.max_drop:g} NOT met with {found.min_int8:.0%} of the MACs in INT8; the "
        f"nearest, {chosen.drop - found.max_drop:.4f} away: {figures}"
    )
