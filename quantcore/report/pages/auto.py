"""The page of the search for the cheapest recipe: `auto.html`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantcore.report import figures
from quantcore.report.figures import BLUE, GREY, RED, Spot
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
from quantcore.report.pages.layers import change
from quantcore.report.pages.manifest import manifest
from quantcore.results.metric import METRICS, Metric

_Json = Mapping[str, Any]


def page(data: _Json, folder: Path) -> Page:
    """What was tried, chosen, and found on images that nothing was chosen on.

    Args:
        data: As `auto.json` holds it.
        folder: Where that lies, with the pictures.
    """
    metric, unseen, images = METRICS[data["metric"]], data["unseen"], data["images"]
    why = [[layer, reason] for layer, reason in unseen["not_int8"].items()]
    asked = data["asked"]
    known = [*data["warnings"], *data.get("notes", ())]
    return Page(
        title=f"{data['model']}: the cheapest recipe",
        subtitle=f"{data['weights']} on {data['data']}; asked: a loss of at most "
        f"{asked['max_drop']:g} of {metric.title}, at least {asked['min_speedup']:g} times as fast",
        verdict=data["verdict"],
        sections=(
            Section("To know", [Words(known)] if known else []),
            Section("On the images that nothing was chosen on", _unseen(unseen, metric)),
            Section("What was tried", _tried(data, metric)),
            Section("Scores as they are deployed", evidence.scores(data.get("scores"))),
            Section("Images that INT8 changes most", evidence.photos(data.get("photos"), folder)),
            Section("Along the network", evidence.layers(data.get("layers"))),
            Section(
                "Quantized layers that do not run in INT8",
                [Table(title="Layers", columns=("layer", "why"), rows=why)] if why else [],
            ),
            Section(
                "How it was made",
                [
                    *manifest(data),
                    Facts(
                        {
                            "calibrated and trained on": f"{len(images['calibrating'])} images of "
                            f"{images['split']}",
                            "chosen on": f"{len(images['choosing'])} others of it, seed "
                            f"{images['seed']}",
                            "delivered network calibrated on": f"{len(images['delivered'])} "
                            f"images of {images['split']}",
                            "judged on": f"{unseen['images']} images of {unseen['split']}",
                            "minutes": f"{data['seconds'] / 60:.1f}",
                            "files": ", ".join(data["artifacts"].values()),
                        }
                    ),
                ],
            ),
        ),
    )


def _unseen(unseen: _Json, metric: Metric) -> list[Block]:
    rows = [
        [name, number(unseen["ms"][name], 1), spanned(speedup, 2)]
        for name, speedup in unseen["speedups"].items()
    ]
    rows.append(["the chosen recipe", number(unseen["ms"]["INT8"], 1), Cell("")])
    note = (
        f"{metric.title} of the float network {spanned(unseen['float_figure']).text}; it changes "
        f"by {spanned(change(unseen['drop']), 4, '+').text}, mean of {unseen['graphs']} similar "
        f"graphs; {metric.kept} lost {spanned(unseen['lost'], 4).text}."
    )
    heads = ("network", "ms", "INT8 is times as fast")
    return [Table(title="Speed", columns=heads, rows=rows, note=note)]


def _tried(data: _Json, metric: Metric) -> list[Block]:
    plot = _speed_against_change(data, metric)
    skipped = [f"{rung}: {why}" for rung, why in data["skipped"].items()]
    blocks: list[Block] = [plot] if plot else []
    blocks.append(_recipes(data, metric))
    return [*blocks, Words(skipped)] if skipped else blocks


def _recipes(data: _Json, metric: Metric) -> Table:
    heads = (
        "recipe",
        "",
        "engine",
        "rung",
        f"{metric.kept} lost",
        f"change of {metric.title}",
        "believed",
        "ms",
        "times as fast",
    )
    rows: list[list[Cell | str]] = [
        [
            f"float, {r['precision']}",
            "" if r["counts"] else "loses too much",
            r["engine"],
            "",
            spanned(r["lost"], 4),
            spanned(change(r["drop"]), 4, "+"),
            Cell("-"),
            number(r["ms"], 1),
            Cell("-"),
        ]
        for r in data["rivals"]
    ]
    for place, tried in enumerate(data["tried"]):
        belief = tried["belief"]
        rows.append(
            [
                tried["name"],
                "chosen" if place == data["chosen"] else "",
                tried["engine"],
                tried["rung"],
                spanned(tried["lost"], 4),
                spanned(change(tried["drop"]), 4, "+"),
                Cell(f"{-belief['drop']:+.4f} ± {belief['deviation']:.4f}", -belief["drop"]),
                number(tried["ms"], 1),
                spanned(tried["speedup"], 2),
            ]
        )
    note = (
        f"On the images to choose by. Believed: what {metric.kept} lost and {metric.title} say "
        "together, each weighing by its own uncertainty."
    )
    return Table(title="Recipes", columns=heads, rows=rows, note=note)


def _speed_against_change(data: _Json, metric: Metric) -> Plot | None:
    spots = [
        Spot(
            name=str(n + 1),
            x=t["speedup"]["value"],
            x_span=_span(t["speedup"]),
            y=-t["belief"]["drop"],
            y_span=(
                -t["belief"]["drop"] - t["belief"]["deviation"],
                -t["belief"]["drop"] + t["belief"]["deviation"],
            ),
            color=RED if n == data["chosen"] else BLUE if t["accurate"] and t["fast"] else GREY,
            strong=n == data["chosen"],
        )
        for n, t in enumerate(data["tried"])
        if t["belief"]["drop"] is not None and t["speedup"]["value"] is not None
    ]
    if not spots:
        return None
    return Plot(
        figures.points(spots, "times as fast as the fastest float", "believed change"),
        "Recipes, numbered as they were tried: speed against the believed change of "
        f"{metric.title}. Red: the chosen one; blue: others that meet both targets.",
    )


def _span(found: _Json) -> tuple[float, float] | None:
    return (found["low"], found["high"]) if found.get("low") is not None else None
