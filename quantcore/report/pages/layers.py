"""The pages of the studies of layers: `sensitivity.html` and `mixed.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantcore.report import figures
from quantcore.report.figures import BLUE, GREY, RED, Spot
from quantcore.report.page import Block, Cell, Facts, Page, Plot, Section, Table, number, spanned
from quantcore.report.pages.manifest import manifest
from quantcore.results.metric import METRICS, SQNR, Metric

_Json = Mapping[str, Any]

#: A plot shows the worst layers; the table has all.
_SHOWN = 30

#: The frontier shows losses up to so many times the target, and up to so much in any case.
_MOST, _LEAST = 4, 0.02


def metric_of(data: _Json) -> Metric:
    """What the figures of a study are called."""
    return next(metric for name, metric in METRICS.items() if f"float_{name}" in data)


def change(found: _Json | None) -> dict[str, Any] | None:
    """A drop as a change against the float model: less is negative, everywhere."""
    if not found or found.get("value") is None:
        return None
    ends = {"low": found.get("high"), "high": found.get("low")}
    return {
        "value": 0 - found["value"],  # -0.0 of no drop would be shown as one
        **{name: None if end is None else 0 - end for name, end in ends.items()},
    }


def sensitivity(data: _Json) -> Page:
    """The layers, most sensitive first."""
    metric, layers = metric_of(data), data["layers"]
    drop, loss = f"{metric.name}_drop", f"{metric.kept}_loss"
    spots = [
        spot
        for layer in layers[:_SHOWN]
        if (spot := _cost(layer, data["method"], metric)) is not None
    ]
    by = {
        metric.name: f"change of {metric.title}",
        metric.kept: f"change of the agreement in {metric.kept}",
        SQNR: "SQNR of the raw heads, dB: short is bad",
    }[data["method"]]
    blocks: list[Block] = []
    if spots:
        some = f" The first {len(spots)} of {len(layers)}." if len(spots) < len(layers) else ""
        about = f"Grey: no more than noise, by a 90 % interval.{some}"
        blocks.append(Plot(figures.intervals(spots, by, bars=True), about))
    rows = [
        [
            Cell(layer["layer"]),
            Cell(layer["op"]),
            Cell(str(layer["rank"]), layer["rank"]),
            number(layer["macs"] / 1e6, 1),
            spanned(change(layer[drop]), 4, "+"),
            spanned(change(layer[loss]), 4, "+"),
            number(layer["heads_sqnr_db"], 1),
            number(layer["layer_sqnr_db"], 1),
        ]
        for layer in layers
    ]
    heads = (
        "layer",
        "operator",
        "rank",
        "M MACs",
        f"change of {metric.title}",
        f"of {metric.kept}",
        "heads, dB",
        "layer, dB",
    )
    blocks.append(Table(title="Layers", columns=heads, rows=rows))
    return Page(
        title=f"{data['model']}: what quantizing each layer alone costs",
        subtitle=f"{data['images']} images of {data['split']}, table by {data['backend']}; float "
        f"{metric.title} {spanned(data[f'float_{metric.name}']).text}",
        verdict=_worst(layers, drop, loss, metric),
        sections=(
            Section("Layers, most sensitive first", blocks),
            Section(
                "How it was made",
                [
                    *manifest(data),
                    Facts(
                        {
                            "ranked by": data["method"],
                            "intervals": data["interval"],
                            "SHA-256 of the table": data["table_sha256"],
                        }
                    ),
                ],
            ),
        ),
    )


def _worst(layers: Sequence[_Json], drop: str, loss: str, metric: Metric) -> list[str]:
    """What to keep an eye on."""
    if not layers:
        return ["no layer is quantized"]
    sure = [layer for layer in layers if (layer[loss].get("low") or 0) > 0]
    names = ", ".join(layer["layer"] for layer in layers[:3])
    costs = spanned(change(layers[0][loss]), 4, "+").text
    return [
        f"the most sensitive layers are {names}; the first costs {costs} of the {metric.kept}",
        f"{len(sure)} of {len(layers)} layers cost more than noise explains; `quantcore mixed` "
        "finds which of them to leave in float",
    ]


def _cost(layer: _Json, method: str, metric: Metric) -> Spot | None:
    if method == SQNR:
        value = layer["heads_sqnr_db"]
        return None if value is None else Spot(layer["layer"], value)
    key = f"{metric.name}_drop" if method == metric.name else f"{metric.kept}_loss"
    found = change(layer[key])
    if found is None:
        return None
    span = (found["low"], found["high"]) if found["low"] is not None else None
    color = GREY if span and span[1] >= 0 else RED
    return Spot(layer["layer"], found["value"], span, color=color)


def mixed(data: _Json) -> Page:
    """The sets of layers that were measured, their frontier, and the chosen one."""
    metric, chosen, speed = metric_of(data), data["chosen"], data["speed"]
    drop = f"{metric.name}_drop"
    across = f"latency on {speed['engine']}, ms" if speed else "MACs in INT8, %"
    again = data["unseen"]
    shown = {tuple(p["kept"]) for p in data["frontier"]} | {tuple(chosen["kept"])}
    rows = [_set(point, data, metric, tuple(point["kept"]) in shown) for point in data["points"]]
    heads = [
        "layers in float",
        "",
        "MACs in INT8, %",
        f"change of {metric.title}",
        f"of {metric.kept}",
        "with margin",
    ]
    heads += ["ms", "time / float's"] if speed else []
    blocks: list[Block] = [
        Plot(
            _frontier(data, metric, across),
            "Numbers: layers in float. Red: the chosen set. The "
            "line joins the sets that no other beats in both; bars: 90 % intervals.",
        )
    ]
    blocks.append(Table(title="Sets that were measured", columns=heads, rows=rows))
    if again:
        name = f"float_{metric.name}"
        cells = [
            [
                Cell(str(p["layers_kept"]), p["layers_kept"]),
                number(100 * p["int8_share_of_macs"], 1),
                spanned(change(p[drop]), 4, "+"),
            ]
            for p in again["points"]
        ]
        note = f"{again['images']} images that the search did not see; float "
        note += f"{spanned(again[name]).text}."
        columns = ("layers in float", "MACs in INT8, %", f"change of {metric.title}")
        table = Table(title=f"On {again['split']}", columns=columns, rows=cells, note=note)
        blocks.append(table)
    return Page(
        title=f"{data['model']}: which layers to leave in float",
        subtitle=f"{data['images']} images of {data['split']}; float {metric.title} "
        f"{spanned(data[f'float_{metric.name}']).text}",
        verdict=_mixed_verdict(data, metric),
        sections=(
            Section("What was measured", blocks),
            Section("How it was made", [*manifest(data), Facts(_asked(data))]),
        ),
    )


def _mixed_verdict(data: _Json, metric: Metric) -> list[str]:
    chosen, drop = data["chosen"], f"{metric.name}_drop"
    names = ", ".join(chosen["kept"][:12]) or "none"
    more = f" and {len(chosen['kept']) - 12} more" if len(chosen["kept"]) > 12 else ""
    met = "meets" if data["met"] else "does NOT meet"
    lines = [
        f"leave {chosen['layers_kept']} layers in float ({names}{more}): "
        f"{chosen['int8_share_of_macs']:.1%} of the MACs stay in INT8, {metric.title} changes by "
        f"{spanned(change(chosen[drop]), 4, '+').text}, which {met} the target of a loss of at "
        f"most {data['max_drop']:g}"
    ]
    ratio = chosen.get("latency_ratio")
    if ratio:
        pace = "is faster than float" if ratio["high"] < 1 else "is no faster than float"
        lines.append(
            f"it {pace} on {data['speed']['engine']}: {spanned(ratio, 2).text} of its time"
        )
    if data.get("why_chosen"):
        lines.append(str(data["why_chosen"]))
    if data["speed"] and data["speed"]["caveat"]:
        lines.append(data["speed"]["caveat"])
    return lines


def _asked(data: _Json) -> dict[str, Any]:
    return {
        "largest loss": data["max_drop"],
        "confidence": data["confidence"],
        "least share of the MACs in INT8": data["min_int8"],
        "intervals": data["interval"],
        "layers left in float": ", ".join(data["chosen"]["kept"]) or "none",
    }


def _set(point: _Json, data: _Json, metric: Metric, best: bool) -> list[Cell | str]:
    mark = "chosen" if point["kept"] == data["chosen"]["kept"] else "frontier" if best else ""
    cells: list[Cell | str] = [
        Cell(str(point["layers_kept"]), point["layers_kept"], ", ".join(point["kept"])),
        mark,
        number(100 * point["int8_share_of_macs"], 1),
        spanned(change(point[f"{metric.name}_drop"]), 4, "+"),
        spanned(change(point[f"{metric.kept}_loss"]), 4, "+"),
        number(-point["judged_drop"] if point["judged_drop"] is not None else None, 4, "+"),
    ]
    if data["speed"]:
        ms: _Json = point["latency_ms"] or {}
        span = {"value": ms.get("p50_ms"), "low": ms.get("low_ms"), "high": ms.get("high_ms")}
        cells += [spanned(span, 1), spanned(point.get("latency_ratio"), 2)]
    return cells


def _frontier(data: _Json, metric: Metric, across: str) -> str:
    def cost(point: _Json) -> float:
        if data["speed"]:
            return float(point["latency_ms"]["p50_ms"])
        return 100 * float(point["int8_share_of_macs"])

    best = [tuple(p["kept"]) for p in data["frontier"]]
    points = [p for p in data["points"] if p["latency_ms"] or not data["speed"]]
    spots, lows = [], [0.0, -data["max_drop"]]
    for point in points:
        found = change(point[f"{metric.name}_drop"])
        if found is None:
            continue
        chosen = point["kept"] == data["chosen"]["kept"]
        on_it = tuple(point["kept"]) in best
        span = (found["low"], found["high"]) if found["low"] is not None else None
        lows += list(span or ())
        spots.append(
            Spot(
                name=str(point["layers_kept"]) if chosen or on_it else "",
                x=cost(point),
                y=found["value"],
                y_span=span,
                color=RED if chosen else BLUE if on_it else GREY,
                strong=chosen,
            )
        )
    ends = [(cost(p), -(p[f"{metric.name}_drop"]["value"] or 0.0)) for p in data["frontier"]]
    # A model that collapses would flatten all the rest; it is drawn at the edge.
    lowest = max(min(lows), -max(_MOST * data["max_drop"], _LEAST))
    limits = (1.1 * lowest, max(*lows, 0.0) + 0.1 * abs(lowest) + 1e-6)
    title = f"change of {metric.title}"
    return figures.frontier(spots, ends, -data["max_drop"], across, title, limits)
