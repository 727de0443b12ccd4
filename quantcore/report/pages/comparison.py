"""The page of a comparison: `report.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantcore.report import figures
from quantcore.report.figures import BLUE, RED, Spot
from quantcore.report.page import (
    Block,
    Cell,
    Facts,
    Page,
    Plot,
    Section,
    Table,
    Words,
    number,
    spanned,
)
from quantcore.report.pages import evidence
from quantcore.report.pages.manifest import manifest
from quantcore.results.metric import METRICS, Metric

_Column = Mapping[str, Any]

#: Classes and layers in a plot; the table has all.
_SHOWN = 24

_LATENCIES = ("p50", "p90", "p99", "mean")
_SIZES = {"map_small": "small", "map_medium": "medium", "map_large": "large"}


def page(report: Mapping[str, Any], folder: Path) -> Page:
    """The page.

    Args:
        report: As `report.json` holds it.
        folder: Where that lies, with the pictures.
    """
    metric = METRICS[report["metric"]]
    columns = [*report["floats"], *report["variants"]]
    failed = [
        f"{f['backend']}{' on ' + f['engine'] if f['engine'] else ''} failed: {f['error']}"
        for f in report["failures"]
    ]
    return Page(
        title=f"{report['model']}: float and quantized",
        subtitle=f"{report['weights']} on {report['data']}, {columns[0]['images']} images",
        verdict=report["verdict"]["lines"],
        sections=(
            Section("What failed", [Words(failed, bad=True)] if failed else []),
            Section("To know", [Words(report["notes"])] if report.get("notes") else []),
            Section("Accuracy and speed", _summary(columns, metric)),
            Section("What INT8 changes", _changes(report, columns, metric)),
            Section("Scores as they are deployed", evidence.scores(report.get("scores"))),
            Section("Images that INT8 changes most", evidence.photos(report.get("photos"), folder)),
            Section("Along the network", evidence.layers(report.get("layers"))),
            Section("Thresholds by backend", _thresholds(report["thresholds"])),
            Section("All figures", [_everything(columns, metric)]),
            Section("How it was made", [*manifest(report), *map(_made, columns)]),
        ),
    )


def title(column: _Column) -> str:
    """How a variant is called."""
    return f"{_graph(column)} on {column['engine']}"


def _graph(column: _Column) -> str:
    step = f", {column['step']}" if column.get("step") else ""
    return f"{column['backend'] or 'float'}{step}"


def _summary(columns: Sequence[_Column], metric: Metric) -> list[Block]:
    rows: list[list[Cell | str]] = [
        [
            title(v),
            number(v[metric.name]),
            spanned(v[f"{metric.name}_difference"], sign="+"),
            _latency(v),
            spanned(v["latency_ratio"], 2),
            _int8(v["int8"]),
            number(v["sizes"]["onnx_bytes"] / 1e6, 2),
        ]
        for v in columns
    ]
    heads = (
        "variant",
        metric.title,
        "against float",
        "ms an image",
        "time / float's",
        "layers in INT8",
        "file, MB",
    )
    blocks: list[Block] = [
        Table(title="Variants", columns=heads, rows=rows, note=_brackets(columns, metric))
    ]
    spots = [_spot(v, metric) for v in columns if v["latency_ms"]["p50"] and v[metric.name]]
    if spots:
        about = (
            f"{metric.title} against latency; up and to the left is better. The bars are 90 % "
            "intervals: of the images, and of the median latency."
        )
        drawing = figures.scatter(spots, "latency, ms an image", metric.title)
        blocks.append(Plot(drawing, about))
    return blocks


def _latency(column: _Column) -> Cell:
    ms = column["latency_ms"]
    return spanned({"value": ms["p50"], "low": ms["low"], "high": ms["high"]}, 1)


def _brackets(columns: Sequence[_Column], metric: Metric) -> str:
    change = next((c for v in columns if (c := v[f"{metric.name}_difference"])), None)
    known = (
        f"the middle {change['level']:.0%} of {change['draws']} draws of the images with "
        "replacement, float and INT8 under the same draws; of latencies, "
        if change
        else ""
    )
    return (
        f"In brackets: {known}of the turns in which all graphs of an engine were timed side by "
        "side. A time below 1 is faster than float."
    )


def _int8(audit: Mapping[str, Any] | None) -> Cell:
    if audit is None:
        return Cell("-", -1)
    known = f"{audit['int8']} of {audit['quantized_layers']}"
    return Cell(known if audit["verified"] else "not told", audit["int8"])


def _spot(column: _Column, metric: Metric) -> Spot:
    ms, own = column["latency_ms"], column[f"{metric.name}_interval"]
    return Spot(
        name=_graph(column),
        group=column["engine"],
        x=ms["p50"],
        x_span=(ms["low"], ms["high"]) if ms["low"] is not None else None,
        y=column[metric.name],
        y_span=(own["low"], own["high"]) if own and own["low"] is not None else None,
    )


def _changes(report: Mapping[str, Any], columns: Sequence[_Column], metric: Metric) -> list[Block]:
    quantized = [v for v in columns if v["backend"]]
    changes = [(v, v[f"{metric.name}_difference"]) for v in quantized]
    spots = [
        Spot(title(v), c["value"], (c["low"], c["high"]), color=RED if c["high"] < 0 else BLUE)
        for v, c in changes
        if c and c["value"] is not None
    ]
    blocks: list[Block] = []
    if spots:
        about = (
            f"Change of {metric.title} against the float model with 90 % intervals, paired image "
            "by image; red where all of the interval is a loss."
        )
        blocks.append(Plot(figures.intervals(spots, f"change of {metric.title}"), about))
    whole = {v["engine"]: v for v in report["floats"]}
    blocks += _by_size(quantized, whole)
    blocks += _by_class(quantized, whole, metric)
    means = [v for v in quantized if v["neighbours"]]
    if means:
        rows: list[list[Cell | str]] = [
            [
                title(v),
                number(v["neighbours"]["mean"], 4, "+"),
                number(v["neighbours"]["error"], 4),
                str(len(v["neighbours"]["differences"])),
            ]
            for v in means
        ]
        heads = ("variant", "mean change", "standard error", "graphs")
        note = "Graphs whose scales differ in the last place; one graph is one draw."
        blocks.append(Table(title="Mean of similar graphs", columns=heads, rows=rows, note=note))
    return blocks


def _by_size(quantized: Sequence[_Column], whole: Mapping[str, _Column]) -> list[Block]:
    names = [k for k in _SIZES if any(_change(v, whole, k) is not None for v in quantized)]
    if not names:
        return []
    rows: list[list[Cell | str]] = [
        [title(v), *(number(_change(v, whole, k), 3, "+") for k in names)] for v in quantized
    ]
    heads = ("variant", *(_SIZES[name] for name in names))
    note = "Small is below 32 x 32 pixels, large from 96 x 96."
    return [Table(title="Change by size of the objects", columns=heads, rows=rows, note=note)]


def _change(column: _Column, whole: Mapping[str, _Column], figure: str) -> float | None:
    reference = whole.get(column["engine"])
    if reference is None:
        return None
    own, float_ = column.get(figure), reference.get(figure)
    return None if own is None or float_ is None else own - float_


def _by_class(
    quantized: Sequence[_Column], whole: Mapping[str, _Column], metric: Metric
) -> list[Block]:
    """Classes that are in no image are left out."""

    def change(column: _Column, name: str) -> float | None:
        reference = whole.get(column["engine"])
        figures_ = [c["per_class"].get(name) for c in (column, reference) if c is not None]
        return figures_[0] - figures_[1] if len(figures_) == 2 and None not in figures_ else None

    if not quantized:
        return []
    names = [
        n for n in quantized[0]["per_class"] if any(change(v, n) is not None for v in quantized)
    ]
    if not names:
        return []
    first = next(iter(whole.values()))
    rows = [
        [name, number(first["per_class"].get(name)), *(_shaded(change(v, name)) for v in quantized)]
        for name in names
    ]
    heads = ("class", f"float on {first['engine']}", *map(title, quantized))
    worst = quantized[0]
    order = sorted(names, key=lambda n: change(worst, n) or 0.0)
    picked = order if len(order) <= _SHOWN else [*order[: _SHOWN // 2], *order[-_SHOWN // 2 :]]
    spots = [
        Spot(name, value, color=RED if value < 0 else BLUE)
        for name in picked
        if (value := change(worst, name)) is not None
    ]
    some = "" if picked == order else f", the {_SHOWN // 2} that lose most and gain most"
    plot = Plot(
        figures.intervals(spots, f"change of {metric.title}", bars=True),
        f"{metric.by_class}, {title(worst)} less float{some}. Single classes have few objects: a "
        "bar alone proves nothing.",
    )
    return [plot, Table(title=f"{metric.by_class}: change against float", columns=heads, rows=rows)]


def _shaded(value: float | None) -> Cell:
    cell = number(value, 3, "+")
    return Cell(cell.text, cell.order, shade=min(max(-(value or 0.0) / 0.1, 0.0), 1.0))


def _thresholds(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not rows:
        return []
    base, *others = rows[0]["amax"]
    heads = ("tensor", *rows[0]["amax"], *(f"{name} / {base}" for name in others))
    cells = [
        [
            r["tensor"],
            *(number(v, 4) for v in r["amax"].values()),
            *(number(r["ratio"][name], 3) for name in others),
        ]
        for r in rows
    ]
    series = {
        name: [(n, r["ratio"][name]) for n, r in enumerate(rows) if (r["ratio"][name] or 0) > 0]
        for name in others
    }
    about = (
        f"The range that each backend found for an activation, over that of {base}; 1 is the same. "
        "Tensors in the order of the network."
    )
    plot = Plot(figures.lines(series, "tensor", f"amax / {base}'s", log=True, marks=True), about)
    return [plot, Table(title="Activation thresholds (amax)", columns=heads, rows=cells)]


def _everything(columns: Sequence[_Column], metric: Metric) -> Table:
    """Every figure of every variant, a row each."""
    named = [_figures(column, metric) for column in columns]
    rows: list[list[Cell | str]] = []
    for name in named[0]:
        cells = [each[name] for each in named]
        if any(cell.text != "-" for cell in cells):
            rows.append([name, *cells])
    return Table(title="All figures", columns=("figure", *map(title, columns)), rows=rows)


def _figures(v: _Column, metric: Metric) -> dict[str, Cell]:
    """Every figure of a variant by what people call it."""
    audit: Mapping[str, Any] = v["audit"] or {}
    left = v["mixed"]
    found = {name: number(v[name]) for name in metric.figures}
    found |= {f"latency {p}, ms": number(v["latency_ms"][p], 1) for p in _LATENCIES}
    return found | {
        "on the device p50, ms": number(v["latency_device_p50_ms"], 2),
        "runs on": Cell(v["runs_on"] or "-"),
        "preprocessing, ms an image": number(v["preprocess_ms"], 1),
        "postprocessing, ms an image": number(v["postprocess_ms"], 1),
        "calibration, s": number(v["calibration_seconds"] or None, 1),
        "peak memory, MB": number(v["peak_rss_mb"], 0),
        "ONNX file, MB": number(v["sizes"]["onnx_bytes"] / 1e6, 2),
        "Q/DQ pairs": Cell(str(sum(v["qdq_pairs"].values()) or "-")),
        "quantized layers in INT8": _int8(v["int8"]),
        "MACs in quantized layers, %": number(_percent(v["int8_share_of_macs"]), 1),
        "layers left in float": Cell(str(len(left["layers"])) if left else "-"),
        "audit, worst layer, dB": number(audit.get("worst_db"), 1),
        "audit, end to end, dB": number(audit.get("end_to_end_db"), 1),
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _made(column: _Column) -> Facts:
    """One variant: its files, versions, policy, and what was left in float."""
    pairs: dict[str, Any] = {"variant": title(column)}
    pairs["files"] = ", ".join(column["artifacts"].values())
    pairs["versions"] = ", ".join(f"{n} {v}" for n, v in column["versions"].items())
    if column.get("note"):
        pairs["note"] = column["note"]
    if column["mixed"]:
        left = column["mixed"]
        met = "met" if left["met"] else "not met"
        pairs["left in float"] = (
            f"{', '.join(left['layers']) or 'nothing'} (to lose at most {left['max_drop']} on "
            f"{left['images']} images of {left['split']}: {met})"
        )
    if column["policy"]:
        pairs["policy"] = column["policy"]
    return Facts(pairs)
