"""Plots by matplotlib as SVG that takes the page's colours, light and dark, and stands alone."""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from quantcore.showing import one_line

# Commands that draw nothing do not wait for matplotlib, which takes most of a second to import.
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Stand-ins that matplotlib takes for colours, what the page calls them, and what they are alone.
_COLORS = {
    "ink": ("#010203", "#1b1f24"),
    "muted": ("#010204", "#59636e"),
    "line": ("#010205", "#d5dae0"),
    "blue": ("#010206", "#0b6bb3"),
    "red": ("#010207", "#b3261e"),
    "green": ("#010208", "#1a7f4b"),
    "orange": ("#010209", "#b8590a"),
    "grey": ("#01020a", "#9aa3ad"),
}
INK, MUTED, LINE, BLUE, RED, GREEN, ORANGE, GREY = (stand_in for stand_in, _ in _COLORS.values())
#: Of series in turn.
CYCLE = (BLUE, ORANGE, GREEN, RED, GREY)

_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "svg.hashsalt": "quantcore",  # the same figure gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_MARKS = "osD^vPX*<>"
#: Inches: on a phone of 400 pixels the letters are still four fifths of their size.
_WIDTH = 6.4


@dataclass(frozen=True)
class Spot:
    """A point with an interval, and the row or the place where it is drawn.

    Attributes:
        name: What it is.
        x: Value.
        x_span: Its interval; None without.
        y: Second value, where there are two axes of them.
        y_span: Likewise.
        color: Stand-in.
        strong: Whether it is drawn large.
        group: What it belongs to.
    """

    name: str
    x: float
    x_span: tuple[float, float] | None = None
    y: float = 0.0
    y_span: tuple[float, float] | None = None
    color: str = BLUE
    strong: bool = False
    group: str = ""


def scatter(spots: Sequence[Spot], across: str, up: str) -> str:
    """Points between two axes with intervals on both: a colour each group, a mark each name."""
    from matplotlib.lines import Line2D

    groups = list(dict.fromkeys(spot.group for spot in spots))
    names = list(dict.fromkeys(spot.name for spot in spots))
    colors = {group: CYCLE[n % len(CYCLE)] for n, group in enumerate(groups)}
    marks = {name: _MARKS[n % len(_MARKS)] for n, name in enumerate(names)}
    with _styled():
        figure, axes = _axes(3.6 + 0.1 * (len(groups) + len(names)))
        for spot in spots:
            axes.errorbar(
                spot.x,
                spot.y,
                xerr=_reach(spot.x, spot.x_span),
                yerr=_reach(spot.y, spot.y_span),
                fmt=marks[spot.name],
                color=colors[spot.group],
                markersize=7,
                elinewidth=1,
                capsize=2,
            )
        keys = [Line2D([], [], color=colors[g], linewidth=4, label=g) for g in groups]
        keys += [
            Line2D([], [], color=INK, marker=marks[n], linestyle="", label=_short(n)) for n in names
        ]
        figure.legend(handles=keys, loc="outside lower left", ncols=2, fontsize=9)
        axes.grid(True)
        axes.set(xlabel=across, ylabel=up)
        return _svg(figure)


def intervals(spots: Sequence[Spot], across: str, bars: bool = False) -> str:
    """A row for each value, around a line at zero; the first on top."""
    with _styled():
        figure, axes = _axes(0.9 + 0.27 * len(spots))
        axes.axvline(0, color=MUTED, linewidth=1)
        for row, spot in enumerate(spots):
            if bars:
                axes.barh(row, spot.x, height=0.6, color=spot.color)
            if spot.x_span or not bars:
                axes.errorbar(
                    spot.x,
                    row,
                    xerr=_reach(spot.x, spot.x_span),
                    fmt="none" if bars else "o",
                    color=INK if bars else spot.color,
                    elinewidth=1 if bars else 2,
                    capsize=3,
                )
        axes.set_yticks(range(len(spots)), [_short(spot.name) for spot in spots])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(spots) - 0.4, -0.6)
        axes.grid(True, axis="x")
        axes.set(xlabel=across)
        return _svg(figure)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    across: str,
    up: str,
    log: bool = False,
    marks: bool = False,
) -> str:
    """Values along an axis, a line for each series."""
    with _styled():
        figure, axes = _axes(3.0)
        for number, (name, points) in enumerate(series.items()):
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(
                xs,
                ys,
                color=CYCLE[number % len(CYCLE)],
                label=name,
                linewidth=1.4,
                marker="." if marks else None,
                markersize=4,
            )
        if log:
            axes.set_yscale("log")
            for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                axis_format(lambda value, _: f"{value:.4g}")
        if len(series) > 1:
            axes.legend(fontsize=9, loc="best")
        axes.grid(True)
        axes.set(xlabel=across, ylabel=up)
        return _svg(figure)


def points(spots: Sequence[Spot], across: str, up: str) -> str:
    """Points with their names and intervals on both axes; lines at no change."""
    with _styled():
        figure, axes = _axes(3.4)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.axvline(1, color=MUTED, linewidth=1)
        for spot in spots:
            axes.errorbar(
                spot.x,
                spot.y,
                xerr=_reach(spot.x, spot.x_span),
                yerr=_reach(spot.y, spot.y_span),
                fmt="o",
                color=spot.color,
                markersize=8 if spot.strong else 4,
                elinewidth=0.7,
            )
            axes.annotate(spot.name, (spot.x, spot.y), (5, 4), textcoords="offset points")
        axes.grid(True)
        axes.set(xlabel=across, ylabel=up)
        return _svg(figure)


def frontier(
    spots: Sequence[Spot],
    path: Sequence[tuple[float, float]],
    target: float,
    across: str,
    up: str,
    limits: tuple[float, float],
) -> str:
    """Measured points, the line through the best ones, and the target."""
    with _styled():
        figure, axes = _axes(3.8)
        axes.axhline(target, color=RED, linewidth=1, linestyle="--")
        axes.annotate(
            "target",
            (0, target),
            (4, 3),
            ("axes fraction", "data"),
            color=RED,
            textcoords="offset points",
            fontsize=9,
        )
        axes.plot([x for x, _ in path], [y for _, y in path], color=BLUE, linewidth=1.2)
        for spot in spots:
            axes.errorbar(
                spot.x,
                spot.y,
                yerr=_reach(spot.y, spot.y_span),
                fmt="o",
                color=spot.color,
                markersize=8 if spot.strong else 4,
                elinewidth=0.7,
            )
            if spot.name:
                axes.annotate(
                    spot.name, (spot.x, spot.y), (5, 4), textcoords="offset points", fontsize=9
                )
        axes.set_ylim(*limits)
        axes.grid(True)
        axes.set(xlabel=across, ylabel=up)
        return _svg(figure)


def panels(
    names: Sequence[str],
    columns: Sequence[tuple[str, Sequence[float | None]]],
    logs: Sequence[bool],
) -> str:
    """Bars to either side of no difference, a panel for each column; 2 to a power where `logs`."""
    with _styled():
        figure = _figure(1.0 + 0.24 * len(names))
        found = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (title, values), log in zip(found, columns, logs, strict=True):
            known = [0.0 if v is None else v for v in values]
            axes.barh(
                range(len(known)), known, height=0.6, color=[RED if v < 0 else BLUE for v in known]
            )
            axes.axvline(0, color=MUTED, linewidth=1)
            axes.set_title(title, fontsize=9)
            axes.grid(True, axis="x")
            if log:
                axes.xaxis.set_major_formatter(lambda value, _: f"{2**value:.3g}")
        found[0].set_yticks(range(len(names)), [_short(name) for name in names])
        found[0].set_ylim(len(names) - 0.4, -0.6)
        for axes in found:
            axes.tick_params(axis="y", length=0, labelcolor=INK)
        return _svg(figure)


def titled(svg: str, title: str, subtitle: str) -> str:
    """A drawing as a file of its own: with a title, and a background."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found is not None  # matplotlib writes it
    width, height = (float(value) for value in found.groups())
    body = re.sub(r'(<svg [^>]*?)width="[^"]*"', r"\1", svg, count=1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -44 {width} {height + 44}" '
        f'font-family="system-ui, sans-serif">\n<rect y="-44" width="100%" height="100%" '
        f'fill="#fff"/>\n<text x="8" y="-24" font-size="13" font-weight="600">{escape(title)}'
        f'</text>\n<text x="8" y="-8" font-size="10" fill="#59636e">{escape(subtitle)}</text>\n'
        f"{body}</svg>\n"
    )


def _styled() -> AbstractContextManager[None]:
    from matplotlib import rc_context

    style: AbstractContextManager[None] = rc_context(_STYLE)
    return style


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((_WIDTH, height), layout="constrained")


def _axes(height: float) -> tuple[Figure, Axes]:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(height)
    axes = figure.subplots()
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


def _reach(value: float, span: tuple[float, float] | None) -> Any:
    """How far an interval reaches to both sides; a value may lie beside its own draws."""
    if span is None or not all(map(math.isfinite, span)):
        return None
    return [[max(value - span[0], 0.0)], [max(span[1] - value, 0.0)]]


def _short(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= 40 else f"…{name[-39:]}"


def _svg(figure: Figure) -> str:
    """The drawing without a file's head, its stand-ins replaced by the page's colours."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    FigureCanvasSVG(figure)
    # Names of layers hold what they like; none of it is mathematics.
    texts: Any = figure.findobj(lambda artist: hasattr(artist, "set_parse_math"))
    for text in texts:
        text.set_parse_math(False)
    figure.savefig(
        out,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    found = out.getvalue()
    found = found[found.index("<svg") :]
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)
    found = re.sub(r"<style[^>]*>.*?</style>", "", found, flags=re.DOTALL)  # it would hold for all
    found = re.sub(r'font-family: [^;"]*', "font-family: system-ui, sans-serif", found)
    for name, (stand_in, alone) in _COLORS.items():
        found = found.replace(stand_in, f"var(--{name}, {alone})")
    return _unique(found).rstrip()


def _unique(svg: str) -> str:
    """The drawing with ids of its own: several share a page."""
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{mark}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", svg)
    return re.sub(r'href="#([^"]+)"', rf'href="#{mark}-\1"', svg)
