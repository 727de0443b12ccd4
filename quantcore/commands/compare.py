"""Comparisons: of one's own model, and of the demo that comes with quantcore."""

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
    EngineOption,
    EvalImages,
    EvaluationSplit,
    ExecutorName,
    ExecutorOption,
    Images,
    Model,
    ModelOption,
    Placement,
    PolicyFile,
    Precision,
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
from quantcore.contracts import registry
from quantcore.contracts.capabilities import check_capabilities
from quantcore.data.demo import demo as packaged_demo
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import BackendError, CapabilityError, PluginError, UsageError
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.report import comparison as report
from quantcore.report import terminal
from quantcore.results.comparison import RunRecord
from quantcore.runtime.files import ensure_folder
from quantcore.runtime.progress import for_console
from quantcore.studies import comparison
from quantcore.studies.compared import Comparison
from quantcore.studies.mixed import SearchTarget


def compare(
    model: Model,
    weights: Weights,
    data: DataRoot,
    backend: Annotated[list[str], typer.Option(help="Backend plugin; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Folder for report and artifacts.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="Engine plugin; repeat for several.")
    ] = None,
    provider: Providers = None,
    engine_option: EngineOption = None,
    policy: PolicyFile = None,
    images: Images = None,
    placement: Placement = None,
    eval_images: EvalImages = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    calibration_split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    evaluation_split: EvaluationSplit = pipeline.EVALUATION_SPLIT,
    device: Device = "auto",
    threads: Threads = None,
    precision: Precision = "int8",
    equalize: Annotated[
        bool,
        typer.Option(
            "--equalize",
            help="First give channels like ranges, which changes nothing in float: "
            "`--rewrite equalize`.",
        ),
    ] = False,
    rewrite: Annotated[
        list[str] | None,
        typer.Option(help="First rewrite the float model: see `quantcore list`; repeatable."),
    ] = None,
    correct: Annotated[
        list[str] | None,
        typer.Option(
            help="Add what this correction makes of each calibration, as gptq: see `quantcore "
            "list`; repeatable."
        ),
    ] = None,
    qat: Qat = False,
    recipe: RecipeFile = None,
    graphs: Annotated[
        int,
        typer.Option(
            help="Evaluate so many graphs that hardly differ, for one mAP is one draw.", min=1
        ),
    ] = 1,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Search each backend's smallest set of layers left in float."),
    ] = False,
    max_drop: Annotated[
        float | None, typer.Option(help="With --mixed: the model may lose so much mAP, or top-1.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="With --mixed: keep so many most sensitive layers; no search.", min=0),
    ] = None,
    executor: ExecutorName = LOCAL,
    scheduler: Scheduler = None,
    executor_option: ExecutorOption = None,
) -> None:
    """Quantize a model through several frameworks and compare accuracy and speed."""
    ensure_folder(out)
    engines = unique(engine or [REFERENCE_ENGINE])
    options = engine_options(engines, engine_option, threads=threads, providers=provider)
    evaluations = tuple(pipeline.Evaluation(name, options[name], eval_images) for name in engines)
    what = Comparison(
        model=load_model(model, weights, size, preset, model_option),
        weights=weights,
        policy=read_policy(policy, images, placement),
        backends=tuple(unique(backend)),
        data=pipeline.Data(data, calibration_split, evaluation_split),
        out=out,
        engines=evaluations,
        device=device,
        threads=threads,
        precision=precision,
        target=_target(mixed, max_drop, top),
        rewrites=tuple(unique([*(["equalize"] if equalize else []), *(rewrite or [])])),
        corrections=tuple(unique(correct or [])),
        training=read_recipe(qat, recipe),
        graphs=graphs,
        command=command_line(),
    )
    with opened_executor(executor, scheduler, executor_option) as runs:
        record = comparison.compare(what, for_console(), terminal.say, runs)
    _show(record, out)
    _conclude(record)


def _target(mixed: bool, max_drop: float | None, top: int | None) -> SearchTarget | None:
    """What is asked of the search; None where there is to be none."""
    if mixed:
        return SearchTarget(top=top) if max_drop is None else SearchTarget(max_drop, top=top)
    if max_drop is not None or top is not None:
        raise UsageError("--max-drop and --top need --mixed")
    return None


def demo(
    out: Annotated[Path, typer.Option(help="Folder for report and artifacts.")] = Path(
        "quantcore-demo"
    ),
    backend: Annotated[
        list[str] | None, typer.Option(help="Backend plugin; all that work by default.")
    ] = None,
) -> None:
    """Run `compare` on a small detector and images that come with quantcore; needs no network."""
    packaged = packaged_demo()
    ensure_folder(out)
    model, policy = load_model(packaged.model, packaged.weights), CalibrationPolicy()
    chosen = unique(backend) if backend else _able(model, policy)
    what = Comparison(
        model=model,
        weights=packaged.weights,
        policy=policy,
        backends=tuple(chosen),
        data=pipeline.Data(packaged.data),
        out=out,
        engines=tuple(pipeline.Evaluation(name) for name in _running()),
        command=command_line(),
    )
    record = comparison.compare(what, for_console(), terminal.say)
    _show(record, out)
    terminal.say(f"Open {out / 'report.html'}; the Q/DQ graphs and tables lie beside it.")
    terminal.say(
        "Next, your own model: quantcore compare yolov7 --weights yolov7.pt --data COCO_FOLDER "
        + " ".join(f"--backend {name}" for name in chosen)
        + " --out comparison"
    )
    _conclude(record)


def _running() -> list[str]:
    """The engines that run graphs on this machine, the reference first; tells of the others."""
    names = [REFERENCE_ENGINE]
    for info in registry.installed(registry.ENGINES):
        reason = info.unavailable
        if reason is None:
            reason = registry.load_engine(info.name).cannot_run()
        if reason is not None:
            terminal.say(f"left out: engine {info.name!r}: {reason}")
        else:
            names.append(info.name)
    return unique(names)


def _able(model: FloatModel, policy: CalibrationPolicy) -> list[str]:
    """The backends that are there and can honour a policy; tells which are left out and why.

    Raises:
        PluginError: There is none.
    """
    able, sites = [], plan(model, policy)
    for info in registry.installed(registry.BACKENDS, for_console()):
        if info.unavailable is not None:
            continue
        try:
            check_capabilities(info.name, registry.load_backend(info.name).capabilities, sites)
        except CapabilityError as error:
            terminal.say(f"left out: {error}")
        else:
            able.append(info.name)
    if not able:
        raise PluginError(
            "no backend is installed; `quantcore list` shows them, requirements/demo.txt has one"
        )
    return able


def _show(record: RunRecord, out: Path) -> None:
    """Prints the comparison."""
    for table in report.tables(record):
        terminal.console().print(table)
    for note in report.notes(record):
        terminal.say(f"note: {note}")
    terminal.say(f"{out / 'report.json'} and {out / 'report.html'}: written")


def _conclude(record: RunRecord) -> None:
    """Prints the verdict; a backend that failed makes the command fail, after the report."""
    for number, line in enumerate(record.verdict.lines):
        terminal.say(f"{'verdict:' if number == 0 else '-'} {line}")
    if record.failures:
        lines = "; ".join(f"{f.backend}: {f.error}" for f in record.failures)
        raise BackendError(f"not everything finished: {lines}")
