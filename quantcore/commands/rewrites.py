"""Rewrites of the float graph, before it is calibrated, and corrections of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from quantcore import pipeline
from quantcore.commands.options import (
    CalibrationSplit,
    DataRoot,
    Model,
    ModelOption,
    Preset,
    Size,
    Weights,
    load_model,
)
from quantcore.contracts import registry
from quantcore.contracts.options import pairs
from quantcore.contracts.rewrite import Rewrite
from quantcore.ir.description import describe
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data
from quantcore.policy.policy import CalibrationPolicy
from quantcore.report import terminal
from quantcore.results.rewrites import Rewritten
from quantcore.rewrites.equalization import ALPHA, EqualizationOptions
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.progress import for_console
from quantcore.table.table import CalibrationTable

_DEFAULT = CalibrationPolicy()

Out = Annotated[Path, typer.Option(help="ONNX file to write; read it as model `onnx`.")]
RewriteImages = Annotated[
    int, typer.Option(help="Calibration images that the rewrite looks at.", min=1)
]
RewriteOption = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=VALUE of the rewrite; repeat for several. `quantcore list --options NAME` "
        "shows them."
    ),
]


def equalize(
    model: Model,
    weights: Weights,
    data: DataRoot,
    out: Out,
    images: RewriteImages = _DEFAULT.images,
    alpha: Annotated[
        float, typer.Option(help="1 makes all channels of a tensor alike, 0.1 hardly more so.")
    ] = ALPHA,
    split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
) -> None:
    """Write the float model with channels of like ranges, so that INT8 loses less.

    In float it computes the same. See docs/rewrites.md for when it helps, and what it costs. It is
    `quantcore rewrite equalize` in short.
    """
    loaded = load_model(model, weights, size, preset, model_option)
    found = _rewritten(
        "equalize", EqualizationOptions(alpha=alpha), loaded, Data(data, split), images, out
    )
    terminal.say(found.line)
    _tell_next(found, data, out)


def rewrite(
    name: Annotated[str, typer.Argument(help="Rewrite: see `quantcore list`.")],
    model: Model,
    weights: Weights,
    data: DataRoot,
    out: Out,
    option: RewriteOption = None,
    images: RewriteImages = _DEFAULT.images,
    split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Write the float model after a rewrite; it is calibrated afterwards."""
    plugin = registry.load_rewrite(name)
    options = plugin.make_options(pairs(option or ()))
    loaded = load_model(model, weights, size, preset, model_option)
    found = _rewritten(name, options, loaded, Data(data, split), images, out)
    _tell(plugin, found, data, out, as_json)


def correct(
    name: Annotated[str, typer.Argument(help="gptq, bias-correction, ...: see `quantcore list`.")],
    model: Model,
    weights: Weights,
    data: DataRoot,
    table: Annotated[Path, typer.Option(help="Calibration table of the model, of any backend.")],
    out: Out,
    option: RewriteOption = None,
    images: RewriteImages = _DEFAULT.images,
    split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Write the float model with what rounding does made up for, and its table beside it.

    See docs/training.md for what corrections there are, and what each preserves.
    """
    plugin = registry.load_rewrite(name)
    options = plugin.make_options(pairs(option or ()))
    ranges = CalibrationTable.load(table)
    loaded = load_model(model, weights, size, preset, model_option)
    found = _rewritten(name, options, loaded, Data(data, split), images, out, ranges)
    _tell(plugin, found, data, out, as_json)


def _rewritten(
    name: str,
    options: object,
    model: FloatModel,
    data: Data,
    images: int,
    out: Path,
    table: CalibrationTable | None = None,
) -> Rewritten:
    """Applies a rewrite and writes what comes out."""
    ensure_folder(out.parent)
    found = pipeline.rewrite(
        model, name, data, images, _DEFAULT.seed, options, table, for_console()
    )
    write_whole(out, describe(found.model).SerializeToString())
    if found.table is not None:
        found.table.save(_table_beside(out))
    return found


def _tell(plugin: Rewrite, found: Rewritten, data: Path, out: Path, as_json: bool) -> None:
    """Prints what was done, what holds now, and what comes next."""
    if as_json:
        told = {"rewrite": plugin.name, "ensures": plugin.ensures, **found.to_dict()}
        print(json.dumps(told, indent=1))
        return
    terminal.say(found.line)
    if plugin.needs_table:
        terminal.say(f"{plugin.name}: {plugin.ensures}")
    _tell_next(found, data, out)


def _table_beside(out: Path) -> Path:
    return out.with_suffix(".table.json")


def _tell_next(found: Rewritten, data: Path, out: Path) -> None:
    """Prints the command that goes on from here."""
    weights, stem = quote(str(out)), quote(str(out.with_suffix("")))
    if found.table is not None:
        beside = _table_beside(out)
        terminal.say(f"{out} and {beside}: written; next:")
        given = f"onnx --weights {weights} --table {quote(str(beside))}"
        terminal.say(f"  quantcore quantize {given} --out {stem}.qdq.onnx")
        return
    terminal.say(f"{out}: written; next, with a backend of `quantcore list`:")
    given = f"onnx --weights {weights} --data {quote(str(data))}"
    terminal.say(f"  quantcore calibrate {given} --backend NAME --out {stem}.json")
