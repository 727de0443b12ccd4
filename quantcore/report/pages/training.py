"""The page of a training: `training.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quantcore.report import figures
from quantcore.report.page import Block, Cell, Facts, Page, Plot, Section, Table, spanned
from quantcore.report.pages.manifest import manifest

#: Points of a plotted line.
_POINTS = 400

#: Steps that a line is a mean of, as a share of all.
_SMOOTH = 0.05


def page(data: Mapping[str, Any]) -> Page:
    """How a training went, and whether what came out is to be used."""
    found: Mapping[str, Any] = data["verdict"] or {}
    kept = data["kept"]
    lines = [f"use the {kept} network" + (f": {data['ended']}" if data["ended"] else "")]
    if found:
        what = next(key.removesuffix("_lost") for key in found if key.endswith("_lost"))
        lines.append(
            f"on {found['images']} images that neither calibration nor training saw, "
            f"{what} lost change by {spanned(found[f'{what}_lost_change'], 4, '+').text}: "
            f"{spanned(found[f'{what}_lost_before'], 4).text} calibrated, "
            f"{spanned(found[f'{what}_lost'], 4).text} trained"
        )
    else:
        lines.append("no images were set aside to judge it on")
    return Page(
        title=f"Training with {data['backend']}",
        subtitle=f"{len(data['losses']['heads'])} steps on {len(data['image_ids'])} images",
        verdict=lines,
        sections=(
            Section("Loss", _losses(data["losses"])),
            Section("On images that were set aside", _judged(found)),
            Section(
                "How it was made",
                [
                    *manifest(data),
                    Facts(
                        {
                            "recipe": data["recipe"],
                            "seconds": data["seconds"],
                            "peak memory, MB": data["peak_rss_mb"],
                            "parent": data["parent"],
                            "network": data["fingerprint"],
                        }
                    ),
                ],
            ),
        ),
    )


def _losses(found: Mapping[str, Sequence[float | None]]) -> list[Block]:
    series = {
        name: line
        for name, values in found.items()
        if (line := _line([v for v in values if v is not None and v > 0]))
    }
    if not series:
        return []
    about = "Loss before each step, the mean of each step and those around it."
    return [Plot(figures.lines(series, "step", "loss", log=True), about)]


def _line(values: Sequence[float]) -> list[tuple[float, float]]:
    reach = max(1, round(len(values) * _SMOOTH / 2))
    step = max(1, len(values) // _POINTS)
    parts = ((n, values[max(0, n - reach) : n + reach + 1]) for n in range(0, len(values), step))
    return [(float(n), sum(part) / len(part)) for n, part in parts]


def _judged(found: Mapping[str, Any]) -> list[Block]:
    rows: list[list[Cell | str]] = [
        [name.replace("_", " "), spanned(value, 4)]
        for name, value in found.items()
        if isinstance(value, Mapping)
    ]
    return [Table(title="Judgement", columns=("figure", "value"), rows=rows)] if rows else []
