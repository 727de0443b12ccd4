"""What is understood of a data set, before anything is run on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import typer

from quantcore import pipeline
from quantcore.commands.options import unique
from quantcore.data.dataset import Dataset
from quantcore.data.opening import LAYOUTS, open_dataset, split_in
from quantcore.data.overview import Overview, in_both, overview
from quantcore.errors import DataError
from quantcore.report import overviews, terminal
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import for_console


def data(
    where: Annotated[
        Path, typer.Argument(help=f"{LAYOUTS[0].upper()}{LAYOUTS[1:]}.", metavar="DATA")
    ],
    split: Annotated[
        list[str] | None, typer.Option(help="Split to show; train2017 and val2017 by default.")
    ] = None,
    open_: Annotated[
        int, typer.Option("--open", help="Images to open of each split; of more, a sample.", min=1)
    ] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Folder for some images with their labels drawn in.")
    ] = None,
    draw: Annotated[int, typer.Option(help="Images of each split to draw.", min=1)] = 6,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what is understood of a data set: splits, classes, sizes, and what is wrong with it."""
    given = unique(split or [pipeline.CALIBRATION_SPLIT, pipeline.EVALUATION_SPLIT])
    opened, missing = _opened(where, given)
    progress = for_console()
    found = [overview(dataset, name, open_, progress) for name, dataset in opened.items()]
    if as_json:
        print(json_text({"splits": found, "missing": missing}), end="")
    else:
        _show(found, missing)
    if out is not None:
        ensure_folder(out)
        for name, dataset in opened.items():
            for image, pixels in progress.track(overviews.pictures(dataset, draw), "drawing"):
                target = out / f"{name}-{image.id}-{image.path.stem}.jpg"
                write_whole(target, cv2.imencode(".jpg", pixels)[1].tobytes())
        if not as_json:
            terminal.say(f"{out}: some images of each split, with their labels drawn in")


def _opened(where: Path, given: list[str]) -> tuple[dict[str, Dataset], list[str]]:
    """The splits that are there, each once, and what is said of the others."""
    found: dict[str, Dataset] = {}
    missing = []
    for split in given:
        try:
            dataset, name = open_dataset(where, split), split_in(where, split)
        except DataError as error:
            missing.append(str(error))
            continue
        same = next((n for n, one in found.items() if one.images == dataset.images), None)
        if same is None:
            found[name] = dataset
        elif same != name:
            missing.append(f"{name}: the images of {same}")
    if not found:
        raise DataError(missing[0])
    return found, missing


def _show(found: list[Overview], missing: list[str]) -> None:
    for one in found:
        terminal.say(f"{one.split}: {one.holds}, as {one.source} says")
    for line in missing:
        terminal.say(line)
    terminal.console().print(overviews.splits(found))
    if any(one.labels for one in found):
        terminal.console().print(overviews.classes(found))
    for one in found:
        if one.opened < one.images:
            terminal.say(f"{one.split}: {one.opened} of {one.images} images were opened (--open)")
        for problem in one.problems:
            more = ", ..." if problem.count > len(problem.examples) else ""
            names = ", ".join(problem.examples)
            terminal.say(f"{one.split}: {problem.count} {problem.what}: {names}{more}")
        unseen = [name for name, count in one.labels.items() if not count]
        if unseen and one.labels:
            terminal.say(f"{one.split}: {len(unseen)} classes without a label")
    for n, one in enumerate(found):
        for other in found[n + 1 :]:
            if both := in_both(one, other):
                terminal.say(
                    f"{len(both)} images are in {one.split} and in {other.split}: do not choose on "
                    "images that you judge on"
                )
