"""Calibration tables held side by side, or made from one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantcore.analysis.difference import difference
from quantcore.calibration.recalibration import recalibrate as find_again
from quantcore.commands.options import table_paths
from quantcore.errors import QuantcoreError
from quantcore.policy.policy import CalibrationPolicy
from quantcore.report import plots, terminal
from quantcore.runtime.files import write_whole
from quantcore.runtime.plain import json_text
from quantcore.table.table import CalibrationTable


def diff(
    first: Annotated[Path, typer.Argument(help="A calibration table.")],
    second: Annotated[Path, typer.Argument(help="Another one, of the same float graph.")],
    top: Annotated[int, typer.Option(help="How many tensors to show.", min=1)] = 20,
    plot: Annotated[Path | None, typer.Option(help="Picture (SVG) to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All tensors, for programs.")] = False,
) -> None:
    """Show where two calibration tables disagree, the largest disagreement first.

    Where either was made with --keep-histograms, also in dB of quantization noise.
    """
    found = difference(CalibrationTable.load(first), CalibrationTable.load(second))
    if plot is not None:
        write_whole(plot, plots.difference(found, first.name, second.name))
    if as_json:
        print(json_text(found), end="")
        return
    terminal.console().print(terminal.table_difference(found, first.name, second.name, top))
    equal = sum(tensor.ratio == 1 for tensor in found.tensors)
    terminal.say(f"{len(found.tensors)} tensors in both, {equal} of them equal")
    for path, names in ((first, found.only_first), (second, found.only_second)):
        if names:
            terminal.say(f"only in {path.name}: {', '.join(names)}")
    if plot is not None:
        terminal.say(f"{plot}: written")


def recalibrate(
    table: Annotated[Path, typer.Argument(help="A table made with --keep-histograms.")],
    policy: Annotated[Path, typer.Option(help="Calibration policy (YAML) with other observers.")],
    out: Annotated[Path, typer.Option(help="Calibration table (JSON) to write.")],
) -> None:
    """Find other ranges in the histograms that a table kept; needs neither model nor images.

    The observers are always quantcore's own (`implementation: portable`).
    """
    chosen = CalibrationPolicy.load(policy)
    source = CalibrationTable.load(table)
    try:
        found = [find_again(source, one) for one in chosen.each()]
    except QuantcoreError as error:
        raise type(error)(f"{table} with {policy}: {error}") from None
    for new, path in zip(found, table_paths(out, chosen), strict=True):
        new.save(path)
        terminal.say(
            f"{path}: {len(new.tensors)} tensors by portable observers, from the histograms of "
            f"{len(new.provenance.image_ids)} images in {table.name}; ranges of weights as there"
        )
