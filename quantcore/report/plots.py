"""Studies as pictures: self-contained SVG that any browser shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from quantcore.results.difference import TableDifference, TensorDifference
from quantcore.results.metric import SQNR
from quantcore.results.mixed import Mixed, Point
from quantcore.results.sensitivity import LayerCost, Sensitivity

#: A picture shows the worst layers; the JSON beside it has all.
SHOWN = 40

#: The frontier shows losses up to so many times the target, and up to so much in any case.
_MOST, _LEAST = 4, 0.02

_WIDTH, _LEFT, _RIGHT = 960, 260, 130
_BLUE, _GREY, _RED = "#2f6f9f", "#b3bac2", "#a40e26"


def sensitivity(found: Sensitivity, shown: int = SHOWN) -> str:
    """The worst layers as bars, with the intervals of the noise; grey where zero is inside."""
    layers = found.layers[:shown]
    values = [_value(cost, found.method) for cost in layers]
    spans = [_span(cost, found.method) for cost in layers]
    ends = [0.0, *values, *(end for span in spans if span for end in span)]
    ticks = ticks_of(min(ends), max(ends))
    scale = scale_of(ticks, _LEFT, _WIDTH - _RIGHT)
    bars = [
        _bar(cost, value, span, scale, 58 + 18 * n)
        for n, (cost, value, span) in enumerate(zip(layers, values, spans, strict=True))
    ]
    more = (
        f", the first {len(layers)} of {len(found.layers)}"
        if len(layers) < len(found.layers)
        else ""
    )
    return render(
        "sensitivity.svg.j2",
        title=f"{found.model}: what quantizing each layer alone costs",
        subtitle=f"{_ranked_by(found)}; {found.images} images of {found.split}, 90 % "
        f"bootstrap intervals{more}",
        width=_WIDTH,
        height=58 + 18 * len(layers) + 30,
        left=_LEFT,
        ticks=[{"x": scale(t), "text": f"{t:g}", "zero": t == 0} for t in ticks],
        bars=bars,
    )


def _ranked_by(found: Sensitivity) -> str:
    metric = found.metric
    return {
        metric.name: f"loss of {metric.title}",
        metric.kept: f"loss of the {metric.kept} against the float model's",
        SQNR: "SQNR of the raw heads, dB (short is bad)",
    }[found.method]


def _value(cost: LayerCost, method: str) -> float:
    value = {
        cost.metric.name: cost.loss.drop.value,
        cost.metric.kept: cost.loss.disagreement.value,
        SQNR: cost.loss.heads_db,
    }[method]
    return value if math.isfinite(value) else 0.0


def _span(cost: LayerCost, method: str) -> tuple[float, float] | None:
    if method == SQNR:
        return None
    estimate = cost.loss.drop if method == cost.metric.name else cost.loss.disagreement
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
    drop = cost.loss.drop.value
    text = f"{cost.metric.title} {-drop:+.4f}" if math.isfinite(drop) else f"{value:.4g}"
    return {
        "name": _short(cost.layer),
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
    """Measured sets of layers: share of the MACs in INT8, or latency, against what is lost."""
    best = set(found.frontier)
    points = [p for p in found.points if p.latency or not found.speed]
    drops = [e for p in points for e in (p.loss.drop.low, p.loss.drop.high)]
    # A model that collapses would flatten all the rest; it is drawn at the edge.
    highest = min(max([found.max_drop, *drops]), max(_MOST * found.max_drop, _LEAST))
    y_ticks = ticks_of(min([0.0, *drops]), highest)
    costs = [_cost(p) for p in points]
    x_ticks = ticks_of(min(costs), max(costs) if found.speed else 1.0)
    x, y = scale_of(x_ticks, 70, 900), scale_of(y_ticks, 430, 60, clip=True)
    dots = [_dot(p, found, p in best, x, y) for p in points]
    line = " ".join(f"{x(_cost(p))},{y(p.loss.drop.value)}" for p in found.frontier)
    verdict = "meets" if found.met else "misses"
    engine = found.speed.engine if found.speed else None
    return render(
        "frontier.svg.j2",
        title=f"{found.model}: accuracy against {'latency' if engine else 'MACs in INT8'}",
        subtitle=f"{found.images} images of {found.split}; {len(found.chosen.kept)} layers in "
        f"float {verdict} the target of {found.max_drop:g}; numbers: layers in float",
        lost=f"loss of {found.metric.title}",
        across=f"ms on {engine}" if engine else "share of the MACs in INT8",
        width=_WIDTH,
        height=490,
        left=70,
        right=900,
        top=60,
        bottom=430,
        target=y(found.max_drop),
        x_ticks=[{"at": x(t), "text": _tick(t, engine is None)} for t in x_ticks],
        y_ticks=[{"at": y(t), "text": f"{t:g}"} for t in y_ticks],
        line=line,
        dots=dots,
    )


def _cost(point: Point) -> float:
    """Milliseconds where they were measured, else the share of the MACs in INT8."""
    return point.latency.p50_ms if point.latency else point.share


def _tick(value: float, share: bool) -> str:
    return f"{value:.0%}" if share and value >= 0.1 else f"{value:g}"


def _dot(
    point: Point,
    found: Mixed,
    best: bool,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> dict[str, Any]:
    chosen = point == found.chosen
    drop = point.loss.drop
    hint = f"{len(point.kept)} in float, {point.share:.1%} INT8, "
    hint += f"{point.metric.title} {-drop.value:+.4f}"
    if point.latency:
        hint += f", {point.latency.p50_ms:.1f} ms"
    return {
        "x": x(_cost(point)),
        "y": y(drop.value),
        "low": y(drop.low),
        "high": y(drop.high),
        "r": 6 if chosen else 3.5,
        "color": _RED if chosen else _BLUE if best else _GREY,
        "text": str(len(point.kept)) if chosen or best else "",
        "hint": hint,
    }


def difference(found: TableDifference, first: str, second: str, shown: int = SHOWN) -> str:
    """Two tables: how their ranges compare and, where known, their noise; one row a tensor."""
    tensors = found.tensors[:shown]
    more = f", the first {shown} of {len(found.tensors)}" if len(found.tensors) > shown else ""
    middle = 590 if found.has_noise else _WIDTH - 20
    ranges = ("amax, second / first", tensors, _octaves, _factor, _BLUE)
    panels = [_panel(*ranges, (_LEFT, middle - 90))]
    if found.has_noise:
        ends = (middle + 20, _WIDTH - 90)
        noise = ("SQNR, second - first, dB", tensors, _decibels, _signed, _RED)
        panels.append(_panel(*noise, ends))
    return render(
        "difference.svg.j2",
        title=f"{second} against {first}",
        subtitle="the largest disagreement first"
        + (" (in dB of quantization noise, then by range)" if found.has_noise else "")
        + (f"; red: {second} is noisier" if found.has_noise else "")
        + more,
        width=_WIDTH,
        height=76 + 18 * len(tensors) + 30,
        left=_LEFT,
        names=[{"y": 76 + 18 * n, "text": _short(t.tensor)} for n, t in enumerate(tensors)],
        panels=panels,
    )


def _octaves(tensor: TensorDifference) -> float | None:
    """log2 of the ratio, at most 16 either way."""
    if not 0 < tensor.ratio < math.inf:
        return 16.0 if tensor.ratio else -16.0
    return min(max(math.log2(tensor.ratio), -16.0), 16.0)


def _decibels(tensor: TensorDifference) -> float | None:
    value = tensor.decibels
    return None if value is None else min(max(value, -100.0), 100.0)


def _factor(octaves: float) -> str:
    return f"{2**octaves:.3g}"


def _signed(decibels: float) -> str:
    return f"{decibels:+.3g}" if abs(decibels) >= 0.005 else "0"


def _panel(
    title: str,
    tensors: Sequence[TensorDifference],
    value: Callable[[TensorDifference], float | None],
    words: Callable[[float], str],
    below: str,
    ends: tuple[int, int],
) -> dict[str, Any]:
    """Bars to either side of a line that means no difference; `below` colours the left ones."""
    values = [value(tensor) for tensor in tensors]
    most = max([abs(v) for v in values if v is not None], default=0.0)
    # Differences in the last place are no bars as long as the panel.
    ticks = ticks_of(-max(most, 0.1), max(most, 0.1))
    scale = scale_of(ticks, *ends)
    bars = []
    for row, (one, tensor) in enumerate(zip(values, tensors, strict=True)):
        if one is not None:
            start, end = sorted((scale(0.0), scale(one)))
            text = words(one)
            bars.append(
                {
                    "x": start,
                    "y": 76 + 18 * row,
                    "width": round(end - start, 2),
                    "color": _BLUE if one > 0 else below,
                    "text": text,
                    "hint": f"{tensor.tensor} ({tensor.role}): {text}",
                }
            )
    lines = [{"x": scale(t), "text": words(t), "zero": t == 0} for t in ticks]
    return {"title": title, "x": ends[0], "text": ends[1] + 6, "ticks": lines, "bars": bars}


def _short(name: str) -> str:
    return name if len(name) <= 36 else f"…{name[-35:]}"


def ticks_of(low: float, high: float) -> list[float]:
    """Round figures that enclose a range, five to ten of them."""
    span = high - low or 1.0
    step = 10.0 ** math.floor(math.log10(span / 5))
    step *= next((f for f in (1, 2, 5) if span / (step * f) <= 8), 10)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(n * step, 12) for n in range(first, last + 1)]


def scale_of(
    ticks: Sequence[float], start: float, end: float, clip: bool = False
) -> Callable[[float], float]:
    """Places values between two coordinates; at the ends what lies beyond, with `clip`."""
    low, high = ticks[0], ticks[-1]

    def place(value: float) -> float:
        if clip:
            value = min(max(value, low), high)
        return round(start + (value - low) / (high - low) * (end - start), 2)

    return place


def render(template: str, **values: Any) -> str:
    """A template of this room, filled in."""
    environment = Environment(
        loader=PackageLoader("quantcore.report"), autoescape=True, trim_blocks=True
    )
    return environment.get_template(template).render(**values) + "\n"
