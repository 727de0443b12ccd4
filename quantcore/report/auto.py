"""The search for the cheapest recipe as a table on the terminal."""

from __future__ import annotations

from rich.table import Table

from quantcore.report.terminal import estimate
from quantcore.results.auto import AutoRecord


def table(record: AutoRecord) -> Table:
    """Every recipe that was judged, the chosen one marked, below what it has to beat."""
    metric, images = record.metric, len(record.images.choosing)
    title = f"{record.model}: {images} images of {record.images.split} to choose by"
    found = Table(title=title, title_justify="left")
    for column in ("", "recipe", "engine"):
        found.add_column(column, overflow="fold")
    lost = (f"{metric.kept} lost", f"{metric.title} against float", "believed")
    for column in (*lost, "ms", "times as fast"):
        found.add_column(column, justify="right")
    for rival in record.rivals:
        losses = (estimate(rival.lost, 4), estimate(-rival.drop, 4, "+"))
        name = f"float, {rival.precision}"
        found.add_row("", name, rival.engine, *losses, "", f"{rival.ms:.1f}", "")
    for number, tried in enumerate(record.tried):
        found.add_row(
            "chosen" if number == record.chosen else "",
            tried.name,
            tried.engine,
            estimate(tried.lost, 4),
            estimate(-tried.drop, 4, "+"),
            f"{-tried.belief.drop:+.4f} ± {tried.belief.deviation:.4f}",
            f"{tried.ms:.1f}",
            estimate(tried.speedup, 2),
        )
    return found
