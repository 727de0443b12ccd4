"""The cheapest recipe that meets a stated accuracy and is really faster, as a command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from quantcore import pipeline
from quantcore.commands.options import (
    LOCAL,
    CalibrationSplit,
    DataRoot,
    Device,
    EngineOption,
    EvalImages,
    EvaluationSplit,
    ExecutorName,
    ExecutorOption,
    Model,
    ModelOption,
    PolicyFile,
    Preset,
    Providers,
    Scheduler,
    Size,
    Threads,
    Weights,
    command_line,
    engine_options,
    load_model,
    opened_executor,
    read_policy,
    unique,
)
from quantcore.contracts import registry
from quantcore.contracts.capabilities import Capabilities, Support
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import PluginError, UsageError
from quantcore.policy.profiles import Profile
from quantcore.policy.tensor import TensorPolicy, observer_list
from quantcore.report import auto as report
from quantcore.report import terminal
from quantcore.runtime.files import ensure_folder
from quantcore.runtime.progress import for_console
from quantcore.studies.auto import settings
from quantcore.studies.auto.climb import auto as run
from quantcore.studies.auto.settings import AutoStudy

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def auto(
    model: Model,
    weights: Weights,
    data: DataRoot,
    out: Annotated[Path, typer.Option(help="Folder for the network, its table and the report.")],
    max_drop: Annotated[
        float, typer.Option(help="The model may lose so much mAP, or top-1.")
    ] = 0.005,
    min_speedup: Annotated[
        float,
        typer.Option(help="Times as fast as the fastest float network (FP32, BF16, FP16)."),
    ] = 1.0,
    confidence: Annotated[
        float,
        typer.Option(
            help="How surely a recipe must meet the drop before the climb stops; 0.5 goes by the "
            "most likely value, more climbs higher."
        ),
    ] = 0.8,
    budget: Annotated[
        str | None,
        typer.Option(help="No further rung is begun after so long: 90s, 30m, 2h.", metavar="TIME"),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Backend plugin; repeat for several. By default one that can do most."),
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="Engine plugin; repeat for several.")
    ] = None,
    provider: Providers = None,
    engine_option: EngineOption = None,
    policy: PolicyFile = None,
    observer: Annotated[
        list[str] | None,
        typer.Option(help="Try this one: max, mse, percentile=99.99, ...; repeat for several."),
    ] = None,
    placement: Annotated[
        list[str] | None,
        typer.Option(help="Try this placement profile, a name or a YAML file; repeatable."),
    ] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option(
            help="Beat this float network only: FP32, BF16 or FP16, for a network that is to run "
            "on other processors; repeatable."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help=f"Leave out a rung: {', '.join(settings.RUNGS[1:])}; repeatable."),
    ] = None,
    images: Annotated[
        int,
        typer.Option(help="Images of the calibration split that take part at most.", min=1),
    ] = settings.IMAGES,
    choosing: Annotated[
        float, typer.Option(help="Share of these images that recipes are chosen by.")
    ] = 0.5,
    eval_images: EvalImages = None,
    seed: Annotated[int, typer.Option(help="Of the draw of images and their division.")] = 0,
    graphs: Annotated[
        int, typer.Option(help="Graphs that stand for a recipe, which hardly differ.", min=1)
    ] = 6,
    steps: Annotated[int, typer.Option(help="Of a training.", min=1)] = 200,
    refit: Annotated[
        bool,
        typer.Option(help="Make the chosen recipe again with all these images."),
    ] = True,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    calibration_split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    evaluation_split: EvaluationSplit = pipeline.EVALUATION_SPLIT,
    device: Device = "auto",
    threads: Threads = None,
    executor: ExecutorName = LOCAL,
    scheduler: Scheduler = None,
    executor_option: ExecutorOption = None,
) -> None:
    """Find the cheapest recipe that loses little enough and is really faster.

    Climbs from observers over placement, equalized channels, layers in float and corrected rounding
    to training, and stops at the first recipe that meets both. Exit code 1 says that none does; the
    nearest is written all the same. Started again, it goes on where it was.
    """
    ensure_folder(out)
    engines = unique(engine or [REFERENCE_ENGINE])
    options = engine_options(engines, engine_option, threads=threads, providers=provider)
    what = AutoStudy(
        model=load_model(model, weights, size, preset, model_option),
        weights=weights,
        data=pipeline.Data(data, calibration_split, evaluation_split),
        out=out,
        backends=tuple(unique(backend or [_able()])),
        engines=tuple(pipeline.Evaluation(n, options[n], eval_images) for n in engines),
        max_drop=max_drop,
        min_speedup=min_speedup,
        confidence=confidence,
        budget=_seconds(budget),
        policy=read_policy(policy),
        observers=_observers(observer) if observer else settings.OBSERVERS,
        placements=tuple(map(Profile.read, placement)) if placement else settings.PLACEMENTS,
        rivals=frozenset(name.upper() for name in rival) if rival else None,
        without=frozenset(without or ()),
        images=images,
        choosing=choosing,
        seed=seed,
        graphs=graphs,
        steps=steps,
        refit=refit,
        device=device,
        threads=threads,
        command=command_line(),
    )
    with opened_executor(executor, scheduler, executor_option) as runs:
        record = run(what, for_console(), terminal.say, runs)
    for line in (*record.verdict, *(f"note: {warning}" for warning in record.warnings)):
        terminal.say(line)
    terminal.console().print(report.table(record))
    terminal.say(f"{out}: {', '.join(record.artifacts.values())} written")
    if not record.met:
        raise typer.Exit(1)


def _seconds(written: str | None) -> float | None:
    """A time as a person writes it."""
    if written is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", written.strip())
    if found is None:
        raise UsageError(f"--budget is a time such as 90s, 30m or 2h, not {written!r}")
    return float(found[1]) * _SECONDS[found[2]]


def _observers(written: list[str]) -> tuple[TensorPolicy, ...]:
    """Observers as people write them: `mse`, `percentile=99.99`."""
    entries = []
    for one in written:
        name, equals, value = one.partition("=")
        try:
            entries.append({name: float(value)} if equals else name)
        except ValueError:
            raise UsageError(f"--observer {one}: {value!r} is no number") from None
    return observer_list(entries, TensorPolicy())


def _able() -> str:
    """The installed backend that can do most: show its activations, and train."""
    found: dict[str, Capabilities] = {}
    for info in registry.installed(registry.BACKENDS, for_console()):
        if info.unavailable is None:
            able = registry.load_backend(info.name).capabilities
            if "portable" in able.implementations:
                found[info.name] = able
    if not found:
        raise PluginError(
            "no backend is installed that shows its activations; `quantcore list` shows them, "
            "requirements/demo.txt has one"
        )
    return max(found, key=lambda name: (found[name].train is not Support.NONE, name))
