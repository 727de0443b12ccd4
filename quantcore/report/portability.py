"""A portability study as tables on the terminal."""

from __future__ import annotations

import math

from rich.table import Table

from quantcore.report.pages.portability import MOVED
from quantcore.report.terminal import estimate, intervals
from quantcore.results.portability import Change, Deployment, Portability


def matrix(found: Portability) -> Table:
    """What each table loses against the float model at each place."""
    title = (
        f"{found.model}: {found.metric.title} against float ({estimate(found.float_figure)} on "
        f"{found.engine}), {found.images} images of {found.splits[1]}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("calibrated with", overflow="fold")
    for place in found.places:
        table.add_column(place, justify="right")
    for cost in found.tables:
        cells = (found.cell(cost.recipe.name, place) for place in found.places)
        table.add_row(cost.recipe.name, *(_against_float(cell) for cell in cells))
    table.caption = f"in brackets: {intervals(found.float_figure)}, paired with the float model"
    return table


def _against_float(cell: Deployment | None) -> str:
    return estimate(cell.against_float.difference if cell else None, sign="+")


def spread(found: Portability) -> Table:
    """How far each table lies from the reference, and whether it ranks the layers alike."""
    table = Table(title=f"tables against {found.reference}", title_justify="left")
    table.add_column("table", overflow="fold")
    columns = ("thresholds equal", "median ratio", "worst ratio", "Spearman", "Kendall")
    for column in columns:
        table.add_column(column, justify="right")
    for cost in found.tables:
        pair = found.pair(found.reference, cost.recipe.name)
        if pair is None:
            continue
        ranks = pair.spearman
        table.add_row(
            cost.recipe.name,
            f"{pair.equal} of {pair.activations}",
            _number(pair.median_ratio, 4),
            f"{_number(pair.worst_ratio, 3)} at {pair.worst_tensor}",
            f"{_number(ranks.value, 2)} ({_number(ranks.low, 2)} to {_number(ranks.high, 2)})",
            _number(pair.kendall.value, 2),
        )
    return table


def carried(found: Portability) -> Table:
    """Tables in another framework's simulation: the same table, and the same simulation."""
    title = f"tables in another backend's simulation, in {found.arithmetic}"
    table = Table(title=title, title_justify="left")
    for column in ("table", "simulated by"):
        table.add_column(column, overflow="fold")
    for column in (f"{found.metric.title} against its own simulation", "agreement"):
        table.add_column(column, justify="right")
    for column in (f"{found.metric.title} against the other's own table", "agreement"):
        table.add_column(column, justify="right")
    for cell in found.carried:
        figures = (*_change(cell.against_own), *_change(cell.against_host))
        table.add_row(cell.table, cell.runner, *figures)
    if found.floor is not None:
        table.add_section()
        table.add_row(
            str(found.reference), f"graph on {found.engine}, {MOVED}", *_change(found.floor)
        )
    return table


def _change(found: Change | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    return estimate(found.difference, 4, "+"), f"{found.agreement.value:.3f}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
