"""Studies: which layers quantization hurts, and which to leave in float."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantcore import pipeline
from quantcore.commands.options import (
    LOCAL,
    DataRoot,
    EvalImages,
    EvaluationSplit,
    ExecutorName,
    ExecutorOption,
    Model,
    ModelOption,
    PolicyFile,
    Preset,
    Scheduler,
    Size,
    Weights,
    command_line,
    load_model,
    opened_executor,
    read_policy,
)
from quantcore.errors import UsageError
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.report import studies, terminal
from quantcore.runtime.executor import kept_in
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.progress import for_console
from quantcore.studies import layers
from quantcore.studies.calibrations import calibrated
from quantcore.studies.layers import LayerStudy
from quantcore.studies.manifest import Invocation
from quantcore.studies.mixed import SearchTarget
from quantcore.studies.sensitivity import StudiedModel
from quantcore.table.table import CalibrationTable

Method = Annotated[
    str | None,
    typer.Option(
        help="What layers are ranked by: map, detections or sqnr; of a classifier top1, classes "
        "or sqnr. By default detections, or classes."
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Images in flight; one on each core by default.", min=1)
]
Table = Annotated[Path | None, typer.Option(help="Calibration table, from any backend.")]


def sensitivity(
    model: Model,
    weights: Weights,
    data: DataRoot,
    table: Annotated[Path, typer.Option(help="Calibration table, from any backend.")],
    out: Annotated[Path, typer.Option(help="Folder for report, picture and finished work.")],
    method: Method = None,
    images: EvalImages = None,
    policy: PolicyFile = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    split: EvaluationSplit = pipeline.EVALUATION_SPLIT,
    workers: Workers = None,
    executor: ExecutorName = LOCAL,
    scheduler: Scheduler = None,
    executor_option: ExecutorOption = None,
) -> None:
    """Quantize one layer at a time and rank the layers by what that costs.

    A run that is interrupted goes on where it stopped when it is started again.
    """
    ensure_folder(out)
    loaded = load_model(model, weights, size, preset, model_option)
    chosen = CalibrationPolicy.load(policy) if policy else None
    studied = StudiedModel.of(loaded, CalibrationTable.load(table), chosen)
    how = LayerStudy(
        data=data,
        split=split,
        method=method,
        images=images,
        workers=workers,
        invocation=Invocation(command=command_line(), weights=weights),
    )
    with (
        opened_executor(executor, scheduler, executor_option) as runs,
        kept_in(out, for_console(), runs) as runtime,
    ):
        found = layers.rank(studied, how, out, runtime)
        terminal.say(runtime.summary())
    terminal.console().print(studies.sensitivity(found))
    terminal.say(f"{out / 'sensitivity.json'} and {out / 'sensitivity.html'}: written")


def mixed(
    model: Model,
    weights: Weights,
    data: DataRoot,
    out: Annotated[Path, typer.Option(help="Policy (YAML) to write.")],
    table: Table = None,
    backend: Annotated[
        str | None, typer.Option(help="Backend that makes the table, where none is given.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="The model may lose so much mAP, or top-1.")
    ] = 0.005,
    min_int8: Annotated[float, typer.Option(help="Least share of the MACs in INT8, 0..1.")] = 0.8,
    confidence: Annotated[
        float, typer.Option(help="How surely the target must be met; 0.5 ignores the noise.")
    ] = 0.8,
    top: Annotated[
        int | None, typer.Option(help="Keep so many most sensitive layers; no search.", min=0)
    ] = None,
    method: Method = None,
    images: EvalImages = None,
    policy: PolicyFile = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    split: Annotated[
        str,
        typer.Option(
            "--calibration-split", help="Split to search on; keep the evaluation split unseen."
        ),
    ] = pipeline.CALIBRATION_SPLIT,
    verify: Annotated[
        str | None, typer.Option(help="Split to measure the frontier on again, once it is found.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Engine whose measured latency is the cost; MACs are by default."),
    ] = None,
    workers: Workers = None,
    executor: ExecutorName = LOCAL,
    scheduler: Scheduler = None,
    executor_option: ExecutorOption = None,
) -> None:
    """Find the cheapest set of layers to leave in float; ends with exit code 1 if none will do.

    Report, picture and finished work go to a folder beside the policy.
    """
    target = SearchTarget(max_drop, min_int8, top, confidence=confidence)
    how = LayerStudy(
        data=data,
        split=split,
        method=method,
        images=images,
        workers=workers,
        target=target,
        engine=engine,
        verify=verify,
        invocation=Invocation(command=command_line(), weights=weights),
    )
    work = ensure_folder(out.parent / f"{out.stem}.mixed")
    loaded = load_model(model, weights, size, preset, model_option)
    chosen = CalibrationPolicy.load(policy) if policy else None
    with (
        opened_executor(executor, scheduler, executor_option) as runs,
        kept_in(work, for_console(), runs) as runtime,
    ):
        found_table = _table(loaded, data, table, backend, policy, work, runtime)
        studied = StudiedModel.of(loaded, found_table, chosen)
        found = layers.mix(studied, how, work, runtime, terminal.say)
        terminal.say(runtime.summary())
    write_whole(out, found.policy_yaml())
    terminal.console().print(studies.mixed(found))
    terminal.say(studies.verdict(found))
    if found.speed and found.speed.caveat:
        terminal.say(f"note: {found.speed.caveat}")
    terminal.say(f"{out}: written; report and picture in {work}")
    if not found.met and top is None:
        raise typer.Exit(1)


def _table(
    model: FloatModel,
    data: Path,
    table: Path | None,
    backend: str | None,
    policy: Path | None,
    work: Path,
    runtime: Runtime,
) -> CalibrationTable:
    """The given table, or one that the backend makes now."""
    if (table is None) == (backend is None):
        raise UsageError("give either --table TABLE.json or --backend NAME")
    if table is not None:
        return CalibrationTable.load(table)
    given = (read_policy(policy, None), str(backend), pipeline.Data(data), "auto", None)
    done = calibrated("calibration", model, *given, runtime)
    done.table.save(work / "table.json")
    return done.table
