"""The page of one Q/DQ graph: what people open a graph viewer for after quantizing."""

from __future__ import annotations

from collections.abc import Sequence

from quantcore.report import figures
from quantcore.report.figures import BLUE, GREY, Spot
from quantcore.report.page import Block, Cell, Page, Plot, Section, Table, number
from quantcore.results.contents import Coding, Layer

#: Layers in the plot; the table has all.
_SHOWN = 16


def page(name: str, layers: Sequence[Layer], against: str | None, measured_on: str) -> Page:
    """The page.

    Args:
        name: Of the graph's file.
        layers: From `quantcore.analysis.contents`.
        against: Name of the float graph's file; None where there is none.
        measured_on: What errors were measured on, in words.
    """
    known = [layer for layer in layers if layer.error_db is not None]
    heads = [
        "layer",
        "operator",
        "asked for",
        "input scale",
        "input range",
        "weight scales",
        "weight range",
    ]
    rows = [_row(layer, bool(known)) for layer in layers]
    heads += ["error, dB"] if known else []
    note = (
        "Asked for: what the graph says; `quantcore inspect` tells what an engine runs. Range: the "
        "smallest and the largest value that the codes hold."
    )
    table = Table(title="Layers", columns=heads, rows=rows, note=note, opened=True)
    blocks: list[Block] = []
    if known:
        errors = [(n, r.error_db) for n, r in enumerate(layers) if r.error_db is not None]
        about = f"SQNR of each layer's output against {against}, {measured_on}; high is good."
        across = "layer, in the order of the graph"
        blocks.append(Plot(figures.lines({"error": errors}, across, "dB", marks=True), about))
        worst = sorted(known, key=lambda layer: layer.error_db or 0.0)[:_SHOWN]
        spots = [
            Spot(w.name, w.error_db or 0.0, color=GREY if w.precision == "float" else BLUE)
            for w in worst
        ]
        title = f"The {len(spots)} outputs with the largest error; grey: layers in float."
        blocks.append(Plot(figures.intervals(spots, "dB", bars=True), title))
    return Page(
        title=f"{name}: what is quantized, and how",
        subtitle=f"{len(layers)} layers" + (f", against {against}" if against else ""),
        verdict=_verdict(layers, known, measured_on),
        sections=(Section("Error along the graph", blocks), Section("Layers", [table])),
    )


def _verdict(layers: Sequence[Layer], known: Sequence[Layer], measured_on: str) -> list[str]:
    weighted = [layer for layer in layers if layer.weighted]
    both = [layer for layer in weighted if layer.data and layer.weight]
    line = f"{len(both)} of {len(weighted)} layers with weights have codes on input and weight"
    left = [layer.name for layer in weighted if not (layer.data and layer.weight)]
    if left:
        line += f"; the others: {', '.join(left[:8])}" + (" ..." if len(left) > 8 else "")
    lines = [line]
    if known:
        worst = min(known, key=lambda layer: layer.error_db or 0.0)
        end = known[-1]
        lines.append(
            f"the largest error is at {worst.name}: {worst.error_db:.1f} dB; the last layer, "
            f"{end.name}, has {end.error_db:.1f} dB ({measured_on})"
        )
    return lines


def _row(layer: Layer, errors: bool) -> list[Cell | str]:
    data, weight = layer.data, layer.weight
    cells: list[Cell | str] = [layer.name, layer.op, layer.precision]
    for coding in (data, weight):
        cells += [_scale(coding), _range(coding)]
    return [*cells, number(layer.error_db, 1)] if errors else cells


def _scale(coding: Coding | None) -> Cell:
    if coding is None:
        return Cell("-", float("-inf"))
    low, high = coding.scale
    if coding.scales == 1:
        return Cell(f"{high:.4g}", high)
    return Cell(f"{coding.scales}: {low:.3g} to {high:.3g}", high)


def _range(coding: Coding | None) -> Cell:
    if coding is None:
        return Cell("-", float("-inf"))
    low, high = coding.span
    kind = "" if coding.symmetric else ", with a zero point"
    return Cell(f"{low:.4g} to {high:.4g} ({coding.codes}{kind})", high - low)
