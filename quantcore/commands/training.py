"""Training with the quantizers in place, as a command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quantcore import pipeline
from quantcore.commands.options import (
    LOCAL,
    Backend,
    CalibrationSplit,
    DataRoot,
    Device,
    ExecutorName,
    ExecutorOption,
    Model,
    ModelOption,
    Placement,
    PolicyFile,
    Preset,
    Scheduler,
    Size,
    Threads,
    Weights,
    command_line,
    load_model,
    opened_executor,
    read_policy,
)
from quantcore.contracts.registry import BACKENDS, needed
from quantcore.contracts.session import SessionOptions
from quantcore.policy.policy import CalibrationPolicy
from quantcore.runtime.executor import kept_in
from quantcore.runtime.files import ensure_folder
from quantcore.runtime.progress import for_console
from quantcore.studies.manifest import Invocation, manifest
from quantcore.studies.trainings import trained
from quantcore.table.table import CalibrationTable
from quantcore.training.recipe import Recipe


def qat(
    model: Model,
    weights: Weights,
    data: DataRoot,
    backend: Backend,
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    policy: PolicyFile = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Where the ranges start, from any backend; calibrated first without."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="How to train (YAML); see docs/training.md.")
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="ONNX file of the float network to match, where it is not MODEL itself: of a "
            "network that was rounded, the one before."
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Images to train on and to judge on; overrides the policy.", min=1),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Overrides the recipe.", min=1)] = None,
    placement: Placement = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    device: Device = "auto",
    threads: Threads = None,
    executor: ExecutorName = LOCAL,
    scheduler: Scheduler = None,
    executor_option: ExecutorOption = None,
) -> None:
    """Train the network with its quantizers in place; no labels are needed.

    What comes out is another float model (OUT/float.onnx) with its table, which any backend and
    engine take. It is held against calibration alone, on images that neither saw: where it is no
    better, the calibrated graph is kept and the exit code is 1. Started again after it was
    interrupted, it goes on where it was.
    """
    how = Recipe.load(recipe) if recipe else Recipe()
    how = replace(how, steps=steps) if steps else how
    ranges = CalibrationTable.load(table) if table else None
    ensure_folder(out)
    loaded = load_model(model, weights, size, preset, model_option)
    matched = load_model("onnx", teacher, size, preset) if teacher else None
    checkpoint = out / "checkpoint.npz"
    chosen = _policy(policy, ranges, images, placement)
    options, given = SessionOptions(device=device, threads=threads), pipeline.Data(data, split)
    with (
        opened_executor(executor, scheduler, executor_option) as runs,
        kept_in(out, for_console(), runs) as runtime,
    ):
        how_and_where = (how, backend, given, options, checkpoint, runtime, ranges, matched)
        found = trained("training", loaded, chosen, *how_and_where)
        invocation = Invocation(command=command_line(), weights=weights, threads=threads)
        dataset = given.calibration_set()
        seen = set(found.record.image_ids)
        used = [image for image in dataset.images if image.id in seen]
        host = runtime.host(needed(BACKENDS, backend, device))
        about = manifest(invocation, dataset, used, host, found.record.versions, runtime.progress)
    pipeline.save_trained(found, out, about)
    _tell(found, out)
    if not found.record.better:
        raise typer.Exit(1)


def _policy(
    path: Path | None, table: CalibrationTable | None, images: int | None, placement: str | None
) -> CalibrationPolicy:
    """The policy of a file, else the one that the table was made with, else the default one."""
    if path is None and table is not None and placement is None:
        policy = CalibrationPolicy.from_dict(table.provenance.policy)
        return replace(policy, images=images) if images else policy
    return read_policy(path, images, placement)


def _tell(found: pipeline.Trained, out: Path) -> None:
    record = found.record
    total = record.losses.total
    print(
        f"{len(total)} steps on {len(record.image_ids)} images in {record.seconds:.0f} s, peak "
        f"memory {record.peak_rss_mb:.0f} MB; loss {total[0]:.4g}, at the end {total[-1]:.4g}"
    )
    if record.ended:
        print(record.ended)
    if record.verdict:
        print(record.verdict.line)
    else:
        print("no images were set aside: whether it is better than calibration is not known")
    if record.better:
        print(f"{out}: the trained network: float.onnx, table.json, qdq.onnx, training.json")
    else:
        print(f"{out}: training did not help; the calibrated graph is kept, the other in rejected/")
