"""Studies as pictures: self-contained SVG that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from quantcore.analysis.mixed import Mixed, Point
from quantcore.analysis.sensitivity import LayerCost, Sensitivity

#: A picture shows the worst layers; the JSON beside it has all.
SHOWN = 40

#: The frontier shows losses up to so many times the target, and up to so much in any case.
_MOST, _LEAST = 4, 0.02

_WIDTH, _LEFT, _RIGHT = 960, 260, 130
_BLUE, _GREY, _RED = "#2f6f9f", "#b3bac2", "#a40e26"
_TITLES = {
    "map": "loss of mAP",
    "detections": "loss of the detections against the float model's",
    "sqnr": "SQNR of the raw heads, dB (short is bad)",
}


def sensitivity(found: Sensitivity, shown: int = SHOWN) -> str:
    """The worst layers as bars, with the intervals of the noise; grey where zero is inside."""
    layers = found.layers[:shown]
    values = [_value(cost, found.method) for cost in layers]
    spans = [_span(cost, found.method) for cost in layers]
    ends = [0.0, *values, *(end for span in spans if span for end in span)]
    ticks = _ticks(min(ends), max(ends))
    scale = _scale(ticks, _LEFT, _WIDTH - _RIGHT)
    bars = [
        _bar(cost, value, span, scale, 58 + 18 * n)
        for n, (cost, value, span) in enumerate(zip(layers, values, spans, strict=True))
    ]
    more = (
        f", the first {len(layers)} of {len(found.layers)}"
        if len(layers) < len(found.layers)
        else ""
    )
    return _render(
        "sensitivity.svg.j2",
        title=f"{found.model}: what quantizing each layer alone costs",
        subtitle=f"{_TITLES[found.method]}; {found.images} images of {found.split}, 90 % "
        f"bootstrap intervals{more}",
        width=_WIDTH,
        height=58 + 18 * len(layers) + 30,
        left=_LEFT,
        ticks=[{"x": scale(t), "text": f"{t:g}", "zero": t == 0} for t in ticks],
        bars=bars,
    )


def _value(cost: LayerCost, method: str) -> float:
    value = {
        "map": cost.loss.map_drop.value,
        "detections": cost.loss.detections.value,
        "sqnr": cost.loss.heads_db,
    }[method]
    return value if math.isfinite(value) else 0.0


def _span(cost: LayerCost, method: str) -> tuple[float, float] | None:
    if method == "sqnr":
        return None
    estimate = cost.loss.map_drop if method == "map" else cost.loss.detections
    return (estimate.low, estimate.high) if math.isfinite(estimate.low) else None


def _bar(
    cost: LayerCost,
    value: float,
    span: tuple[float, float] | None,
    scale: Callable[[float], float],
    y: int,
) -> dict[str, Any]:
    start, end = sorted((scale(0.0), scale(value)))
    noise = span is not None and span[0] <= 0
    drop = cost.loss.map_drop.value
    text = f"mAP {-drop:+.4f}" if math.isfinite(drop) else f"{value:.4g}"
    return {
        "name": cost.layer if len(cost.layer) <= 36 else f"…{cost.layer[-35:]}",
        "y": y,
        "x": start,
        "width": round(end - start, 2),
        "color": _GREY if noise else _BLUE,
        "low": scale(span[0]) if span else None,
        "high": scale(span[1]) if span else None,
        "text": text,
        "hint": f"{cost.layer} ({cost.op}, {cost.macs / 1e6:.1f} M MACs): {value:.4g}",
    }


def frontier(found: Mixed) -> str:
    """Every measured set of layers: share of the MACs in INT8 against the loss of mAP."""
    best = set(found.frontier)
    drops = [e for p in found.points for e in (p.loss.map_drop.low, p.loss.map_drop.high)]
    # A model that collapses would flatten all the rest; it is drawn at the edge.
    highest = min(max([found.max_drop, *drops]), max(_MOST * found.max_drop, _LEAST))
    y_ticks = _ticks(min([0.0, *drops]), highest)
    x_ticks = _ticks(min(p.share for p in found.points), 1.0)
    x, y = _scale(x_ticks, 70, 900), _scale(y_ticks, 430, 60, clip=True)
    dots = [_dot(p, found, p in best, x, y) for p in found.points]
    line = " ".join(f"{x(p.share)},{y(p.loss.map_drop.value)}" for p in found.frontier)
    verdict = "meets" if found.met else "misses"
    return _render(
        "frontier.svg.j2",
        title=f"{found.model}: accuracy against MACs in INT8",
        subtitle=f"{found.images} images of {found.split}; {len(found.chosen.kept)} layers in "
        f"float {verdict} the target of {found.max_drop:g}; numbers: layers in float",
        width=_WIDTH,
        height=490,
        left=70,
        right=900,
        top=60,
        bottom=430,
        target=y(found.max_drop),
        x_ticks=[{"at": x(t), "text": f"{t:.0%}" if t >= 0.1 else f"{t:g}"} for t in x_ticks],
        y_ticks=[{"at": y(t), "text": f"{t:g}"} for t in y_ticks],
        line=line,
        dots=dots,
    )


def _dot(
    point: Point,
    found: Mixed,
    best: bool,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> dict[str, Any]:
    chosen = point == found.chosen
    drop = point.loss.map_drop
    return {
        "x": x(point.share),
        "y": y(drop.value),
        "low": y(drop.low),
        "high": y(drop.high),
        "r": 6 if chosen else 3.5,
        "color": _RED if chosen else _BLUE if best else _GREY,
        "text": str(len(point.kept)) if chosen or best else "",
        "hint": f"{len(point.kept)} in float, {point.share:.1%} INT8, mAP {-drop.value:+.4f}",
    }


def _ticks(low: float, high: float) -> list[float]:
    """Round figures that enclose a range, five to ten of them."""
    span = high - low or 1.0
    step = 10.0 ** math.floor(math.log10(span / 5))
    step *= next((f for f in (1, 2, 5) if span / (step * f) <= 8), 10)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _scale(
    ticks: Sequence[float], start: float, end: float, clip: bool = False
) -> Callable[[float], float]:
    low, high = ticks[0], ticks[-1]

    def place(value: float) -> float:
        if clip:
            value = min(max(value, low), high)
        return round(start + (value - low) / (high - low) * (end - start), 2)

    return place


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("quantcore.report"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values) + "\n"
