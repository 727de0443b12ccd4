"""The study of whether policies and tables carry over from one framework to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantcore import pipeline
from quantcore.commands.options import (
    LOCAL,
    CalibrationSplit,
    DataRoot,
    Device,
    Engine,
    EngineOption,
    EvalImages,
    EvaluationSplit,
    ExecutorName,
    ExecutorOption,
    Images,
    Model,
    ModelOption,
    Placement,
    Preset,
    Providers,
    Qat,
    RecipeFile,
    Scheduler,
    Size,
    Threads,
    Weights,
    command_line,
    engine_options,
    load_model,
    opened_executor,
    read_policy,
    read_recipe,
    unique,
)
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import BackendError, UsageError
from quantcore.policy.policy import ARITHMETICS, IMPLEMENTATIONS, CalibrationPolicy
from quantcore.report import portability as report
from quantcore.report import terminal
from quantcore.report.pages.portability import page
from quantcore.results.portability import Portability
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import for_console
from quantcore.studies.portability.made import PortabilityStudy
from quantcore.studies.portability.study import run


def portability(
    model: Model,
    weights: Weights,
    data: DataRoot,
    backend: Annotated[list[str], typer.Option(help="Backend plugin; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Folder for report, tables and detections.")],
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="Calibration policy (YAML); repeat for several. The default by default."),
    ] = None,
    implementation: Annotated[
        list[str] | None,
        typer.Option(help="native or portable; both by default, whatever the policies say."),
    ] = None,
    engine: Engine = REFERENCE_ENGINE,
    reference: Annotated[
        str | None,
        typer.Option(help="BACKEND.POLICY.IMPLEMENTATION to hold the others against."),
    ] = None,
    qat: Qat = False,
    recipe: RecipeFile = None,
    images: Images = None,
    placement: Placement = None,
    eval_images: EvalImages = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    calibration_split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    evaluation_split: EvaluationSplit = pipeline.EVALUATION_SPLIT,
    device: Device = "auto",
    arithmetic: Annotated[
        str,
        typer.Option(help="What frameworks simulate in: float64, or float32 as by themselves."),
    ] = "float64",
    threads: Threads = None,
    provider: Providers = None,
    engine_option: EngineOption = None,
    executor: ExecutorName = LOCAL,
    scheduler: Scheduler = None,
    executor_option: ExecutorOption = None,
) -> None:
    """Calibrate with every backend and policy, and deploy every table everywhere.

    A run that is interrupted goes on where it stopped when it is started again.
    """
    chosen_policies = policies(policy or [], images, placement)
    chosen = unique(implementation or IMPLEMENTATIONS)
    for name in chosen:
        if name not in IMPLEMENTATIONS:
            raise UsageError(f"--implementation must be native or portable, not {name!r}")
    if arithmetic not in ARITHMETICS:
        raise UsageError(f"--arithmetic must be float32 or float64, not {arithmetic!r}")
    ensure_folder(out)
    options = engine_options([engine], engine_option, threads=threads, providers=provider)[engine]
    study = PortabilityStudy(
        model=load_model(model, weights, size, preset, model_option),
        weights=weights,
        policies=chosen_policies,
        backends=tuple(unique(backend)),
        implementations=tuple(chosen),
        data=pipeline.Data(data, calibration_split, evaluation_split),
        out=out,
        how=pipeline.Evaluation(engine, options, eval_images),
        device=device,
        threads=threads,
        arithmetic=arithmetic,
        reference=reference,
        training=read_recipe(qat, recipe),
        command=command_line(),
    )
    with opened_executor(executor, scheduler, executor_option) as runs:
        found = run(study, for_console(), terminal.say, runs)
    _show(found, out)


def policies(
    paths: list[Path], images: int | None, placement: str | None
) -> dict[str, CalibrationPolicy]:
    """The policies by the names of their files, without the ending.

    A file that lists several observers stands for as many policies, `FILE-OBSERVER`.
    """
    if not paths:
        return {"default": read_policy(None, images, placement)}
    found: dict[str, CalibrationPolicy] = {}
    for path in paths:
        whole = read_policy(path, images, placement)
        labels = [f"-{one.label}" for one in whole.observers] or [""]
        for label, policy in zip(labels, whole.each(), strict=True):
            name = f"{path.stem}{label}"
            if name in found:
                raise UsageError(f"two policies are called {name!r}; rename one of the files")
            found[name] = policy
    return found


def _show(found: Portability, out: Path) -> None:
    """Writes and prints the study; a failed cell makes the command fail, after the report."""
    write_whole(out / "portability.json", json_text(found))
    write_whole(out / "portability.html", page(found.to_dict()).html())
    console = terminal.console()
    for table in (report.matrix(found), report.carried(found), report.spread(found)):
        if table.row_count:
            console.print(table)
    terminal.say(f"{out / 'portability.json'} and {out / 'portability.html'}: written")
    if found.failures:
        lines = "; ".join(f"{f.table}, {f.where}: {f.reason}" for f in found.failures)
        raise BackendError(f"not everything finished: {lines}")
