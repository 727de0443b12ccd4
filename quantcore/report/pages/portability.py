"""The page of a portability study: `portability.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantcore.report.page import Block, Cell, Page, Section, Table, Words, number, spanned
from quantcore.report.pages.layers import metric_of
from quantcore.report.pages.manifest import manifest
from quantcore.results.metric import Metric
from quantcore.results.portability import place

_Json = Mapping[str, Any]

#: A loss of so much of the main figure is shown in the darkest colour.
_DARKEST = 0.05

#: What was done to the graph that is the yardstick.
MOVED = "scales moved by one unit in the last place"


def page(data: _Json) -> Page:
    """Which tables were deployed where, and what each loses there."""
    metric = metric_of(data)
    lost = [f"{e['table']}, {e['where']}: left out: {e['reason']}" for e in data["unsupported"]]
    failed = [f"{e['table']}, {e['where']}: failed: {e['reason']}" for e in data["failures"]]
    change = f"{metric.name}_difference"
    return Page(
        title=f"{data['model']}: calibrated with, deployed as",
        subtitle=f"{data['weights']} on {data['data']}, calibrated on {data['calibration_split']}, "
        f"{data['images']} images of {data['evaluation_split']}; float {metric.title} on "
        f"{data['engine']} {spanned(data[f'float_{metric.name}']).text}",
        verdict=_verdict(data, change, metric),
        sections=(
            Section("What failed", [Words(failed, bad=True)] if failed else []),
            Section(f"{metric.title} against the float model", [_matrix(data, change, metric)]),
            Section("Does a table carry over?", _carried(data, change, metric)),
            Section("The shared graph against the simulations", _graphs(data, change, metric)),
            Section("How far the thresholds lie apart", [_pairs(data["pairs"])]),
            Section("Do the tables rank the layers alike?", [_ranks(data)]),
            Section("Tables", [_tables(data["tables"]), Words(lost)]),
            Section("How it was made", manifest(data)),
        ),
    )


def _verdict(data: _Json, change: str, metric: Metric) -> list[str]:
    """Whether it matters which backend calibrated and which one runs it."""
    cells = [c for c in data["deployments"] if c["against_float"][change]["value"] is not None]
    if not cells:
        return ["nothing could be compared"]
    worst = min(cells, key=lambda c: c["against_float"][change]["value"])
    best = max(cells, key=lambda c: c["against_float"][change]["value"])
    told = [
        f"{metric.title} changes by {spanned(c['against_float'][change], 3, '+').text} with "
        f"{c['table']} as {place(c['kind'], c['runner'])}"
        for c in (best, worst)
    ]
    lines = [told[0] if best is worst else f"best: {told[0]}; worst: {told[1]}"]
    carried = [c["against_own"] for c in data["deployments"] if c["against_own"]]
    if carried:
        moves = max(abs(c[change]["value"] or 0.0) for c in carried)
        lines.append(
            f"the same table in another backend's simulation moves {metric.title} by {moves:.4f} "
            "at most: a table carries over"
            if moves < 0.005
            else f"the same table in another backend's simulation moves {metric.title} by up to "
            f"{moves:.4f}"
        )
    return lines


def _matrix(data: _Json, change: str, metric: Metric) -> Table:
    places = list(dict.fromkeys(place(c["kind"], c["runner"]) for c in data["deployments"]))
    cells = {(c["table"], place(c["kind"], c["runner"])): c for c in data["deployments"]}
    rows = [
        [t["name"], *(_shaded(cells.get((t["name"], where)), change, metric) for where in places)]
        for t in data["tables"]
    ]
    note = "In brackets: 90 % of draws of the images, float and INT8 under the same draws."
    return Table(title="Matrix", columns=("calibrated with", *places), rows=rows, note=note)


def _shaded(cell: _Json | None, change: str, metric: Metric) -> Cell:
    if cell is None:
        return Cell("-", float("-inf"))
    found = cell["against_float"][change]
    text = spanned(found, sign="+")
    agreement = spanned(cell["against_float"]["agreement"]).text
    hint = f"{metric.title} {spanned(cell[metric.name]).text}; {metric.kept} agree: {agreement}"
    shade = min(max(-(found["value"] or 0.0) / _DARKEST, 0.0), 1.0)
    return Cell(text.text, text.order, hint, shade)


def _carried(data: _Json, change: str, metric: Metric) -> list[Block]:
    rows = [
        [
            c["table"],
            c["runner"],
            *_change(c["against_own"], change),
            *_change(c["against_host"], change),
        ]
        for c in data["deployments"]
        if c["against_own"] or c["against_host"]
    ]
    if data["floor"]:
        where = f"graph on {data['engine']}, {MOVED}"
        rows.append(
            [str(data["reference"]), where, *_change(data["floor"], change), Cell(""), Cell("")]
        )
    if not rows:
        return []
    about = (
        "Each table in the simulation of another backend than the one that made it. Against its "
        "own simulation: the same table where it was made, only the simulation differs. Against "
        "the other's own table: what the simulating backend made of the same policy, only the "
        f"calibration differs. Frameworks simulate in {data['arithmetic']}. Agreement is 1 where "
        f"the {metric.kept} are the same."
    )
    heads = (
        "table",
        "simulated by",
        "against its own simulation",
        "agreement",
        "against the other's own table",
        "agreement",
    )
    return [Words([about]), Table(title="Carried over", columns=heads, rows=rows)]


def _graphs(data: _Json, change: str, metric: Metric) -> list[Block]:
    rows = [
        [c["table"], c["runner"], *_change(c["against_graph"], change)]
        for c in data["deployments"]
        if c["against_graph"]
    ]
    heads = ("table", "simulated by", f"{metric.title} against the graph", f"{metric.kept} agree")
    return [Table(title="Graph and simulation", columns=heads, rows=rows)] if rows else []


def _change(found: _Json | None, change: str) -> list[Cell]:
    if not found:
        return [Cell("-"), Cell("-")]
    return [spanned(found[change], 4, "+"), spanned(found["agreement"])]


def _pairs(pairs: Sequence[_Json]) -> Table:
    rows: list[list[Cell | str]] = [
        [
            p["first"],
            p["second"],
            Cell(f"{p['equal']} of {p['activations']}", p["equal"]),
            number(p["median_ratio"], 4),
            number(p["worst_ratio"]),
            p["worst_tensor"],
            spanned(p["spearman"], 2),
            number(p["kendall"]["value"], 2),
        ]
        for p in pairs
    ]
    heads = (
        "first",
        "second",
        "equal",
        "median second / first",
        "worst",
        "where",
        "layers, Spearman",
        "Kendall",
    )
    note = "Activations only; equal: to 1e-5 relative."
    return Table(title="Thresholds", columns=heads, rows=rows, note=note)


def _ranks(data: _Json) -> Table:
    ranks = {(p["first"], p["second"]): p["spearman"]["value"] for p in data["pairs"]}
    ranks |= {(second, first): value for (first, second), value in ranks.items()}
    names = [table["name"] for table in data["tables"]]
    rows: list[list[Cell | str]] = [
        [f"{n} {row}", *(Cell("") if row == c else number(ranks.get((row, c)), 2) for c in names)]
        for n, row in enumerate(names, 1)
    ]
    note = "Spearman's rank correlation of the layers' own SQNR, each layer quantized alone."
    columns = ("table", *(str(n) for n in range(1, len(names) + 1)))
    return Table(title="Rank correlation", columns=columns, rows=rows, note=note)


def _tables(tables: Sequence[_Json]) -> Table:
    rows: list[list[Cell | str]] = [
        [
            str(t["name"]),
            number(t["calibration_seconds"], 1),
            number(t["peak_rss_mb"], 0),
            str(t["file"]),
        ]
        for t in tables
    ]
    heads = ("table", "calibration, s", "peak memory, MB", "file")
    return Table(title="Tables", columns=heads, rows=rows)
