"""Rewrites of the float graph, before it is calibrated."""

from __future__ import annotations

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
from quantcore.ir.description import describe
from quantcore.policy.policy import CalibrationPolicy
from quantcore.report import terminal
from quantcore.rewrites.equalization import ALPHA
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.progress import for_console

_DEFAULT = CalibrationPolicy()


def equalize(
    model: Model,
    weights: Weights,
    data: DataRoot,
    out: Annotated[Path, typer.Option(help="ONNX file to write; read it as model `onnx`.")],
    images: Annotated[
        int, typer.Option(help="Images to find the ranges of channels on.", min=1)
    ] = _DEFAULT.images,
    alpha: Annotated[
        float, typer.Option(help="1 makes all channels of a tensor alike, 0.1 hardly more so.")
    ] = ALPHA,
    split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
) -> None:
    """Write the float model with channels of like ranges, so that INT8 loses less.

    In float it computes the same. See docs/rewrites.md for when it helps, and what it costs.
    """
    ensure_folder(out.parent)
    loaded = load_model(model, weights, size, preset, model_option)
    where = pipeline.Data(data, calibration=split)
    found = pipeline.equalize(loaded, where, images, _DEFAULT.seed, alpha, for_console())
    write_whole(out, describe(found.model).SerializeToString())
    print(terminal.equalized(found))
    print(f"{out}: written; next, with a backend of `quantcore list`:")
    given = f"onnx --weights {quote(str(out))} --data {quote(str(data))}"
    print(
        f"  quantcore calibrate {given} --backend NAME --out {quote(str(out.with_suffix('')))}.json"
    )
