"""Parts of a page that look closer at one quantized graph: scores, pictures, layers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantcore.report import figures
from quantcore.report.figures import BLUE, GREY, Spot
from quantcore.report.page import Block, Cell, Photos, Plot, Table, Words, number, spanned

#: Layers in the plot; the table has all.
_SHOWN = 16


def scores(found: Mapping[str, Any] | None) -> list[Block]:
    """Precision, recall and F1 at fixed thresholds, and how confidences shift."""
    if not found:
        return []
    heads = ("variant, threshold", "precision", "recall", "F1", "F1 against float")
    rows = [
        [
            Cell(f"{entry['variant']}, {point['confidence']:g}"),
            spanned(point["precision"]),
            spanned(point["recall"]),
            spanned(point["f1"]),
            spanned(point.get("f1_difference"), sign="+"),
        ]
        for entry in found["variants"]
        for point in entry["points"]
    ]
    note = (
        "Of boxes above a threshold of the score, as people deploy it; right is an IoU of 0.5 or "
        "more with an object of the class. In brackets 90 % of draws of the images."
    )
    shifts = [
        f"{entry['variant']}: of {shift['boxes']} boxes that the float model scores above "
        f"{shift['confidence']:g}, INT8 finds {shift['matched']}; their scores shift by "
        f"{shift['mean']:+.3f} in the mean, nine in ten by {shift['low']:+.3f} to "
        f"{shift['high']:+.3f}; {shift['lost']} fall below the threshold, {shift['gained']} others "
        "rise above it."
        for entry in found["variants"]
        if (shift := entry.get("shift"))
    ]
    table = Table(
        title="Precision, recall and F1 at fixed thresholds", columns=heads, rows=rows, note=note
    )
    return [table, Words(shifts)] if shifts else [table]


def photos(found: Mapping[str, Any] | None, folder: Path) -> list[Block]:
    """Float, INT8 and truth side by side; pictures that are gone are left out."""
    if not found or not found["images"]:
        return []
    blocks: list[Block] = [
        Words(
            [
                f"{found['variant']} against float, boxes scored above {found['confidence']:g}. "
                "Red: lost in INT8. Orange: gained in INT8. Green: the truth."
            ]
        )
    ]
    for image in found["images"]:
        panes = [
            (pane["caption"], address)
            for pane in image["panes"]
            if (address := _address(folder, pane["file"]))
        ]
        if panes:
            blocks.append(Photos(image["title"], panes, image["about"]))
    return blocks if len(blocks) > 1 else []


def _address(folder: Path, file: str) -> str | None:
    """A picture of the folder as part of the page; no other file, whatever a JSON file says."""
    path = (folder / file).resolve()
    if path.suffix != ".jpg" or not path.is_relative_to(folder.resolve()):
        return None
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:
        return None


def layers(found: Mapping[str, Any] | None) -> list[Block]:
    """The error of each layer, what it runs in, and why."""
    if not found or not found["layers"]:
        return []
    rows: Sequence[Mapping[str, Any]] = found["layers"]
    series = {
        "all layers before it quantized too": [
            (n, row["reached_db"]) for n, row in enumerate(rows) if row["reached_db"] is not None
        ],
        "this layer alone": [
            (n, row["own_db"]) for n, row in enumerate(rows) if row["own_db"] is not None
        ],
    }
    about = (
        f"{found['variant']}: signal to error (SQNR) of each layer's output against the float "
        f"network's, {found['images']} images; high is good, 40 dB is an error of 1 %."
    )
    plot = Plot(
        figures.lines(series, "layer, in the order of the network", "dB", marks=True), about
    )
    worst = sorted((r for r in rows if r["own_db"] is not None), key=lambda r: r["own_db"])[:_SHOWN]
    spots = [Spot(r["layer"], r["own_db"], color=BLUE if r["int8"] else GREY) for r in worst]
    bars = Plot(
        figures.intervals(spots, "dB, of the layer alone", bars=True),
        f"The {len(spots)} layers with the largest error of their own; grey: no INT8, or not told.",
    )
    heads = ("layer", "operator", "alone, dB", "with all before it, dB", "runs in", "why not INT8")
    cells = [
        [
            row["layer"],
            row["op"],
            number(row["own_db"], 1),
            number(row["reached_db"], 1),
            row["precision"] or "-",
            row["why"] or "",
        ]
        for row in rows
    ]
    return [plot, bars, Table(title="Layers", columns=heads, rows=cells)]
