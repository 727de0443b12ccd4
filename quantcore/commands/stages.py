"""The stages one by one: layers, export, calibrate, quantize, evaluate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quantcore import pipeline
from quantcore.commands.options import (
    Backend,
    CalibrationSplit,
    DataRoot,
    Decode,
    Device,
    Engine,
    EngineOption,
    EvalImages,
    EvaluationSplit,
    Images,
    Model,
    ModelOption,
    Placement,
    PolicyFile,
    Precision,
    Preset,
    Providers,
    Size,
    Threads,
    Weights,
    decoded,
    engine_options,
    load_model,
    read_policy,
    table_paths,
    unique,
)
from quantcore.contracts import registry
from quantcore.contracts.session import SessionOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import UsageError
from quantcore.evaluation.tasks import task_of
from quantcore.ir.description import describe
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan as placement_plan
from quantcore.reading import parse_json, read_text
from quantcore.report import layers as layer_report
from quantcore.report import terminal
from quantcore.results.estimate import FigureDraws
from quantcore.runtime.executor import InProcess
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.plain import plain
from quantcore.runtime.progress import for_console
from quantcore.showing import shown
from quantcore.table.table import CalibrationTable

#: Bytes of a result of `evaluate`; one with its draws takes 50 kB.
_MOST_BYTES = 1 << 26


def export(
    model: Model,
    weights: Weights,
    out: Annotated[Path, typer.Option(help="ONNX file to write.")],
    decode: Decode = "post",
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
) -> None:
    """Write the float ONNX graph of a checkpoint; node names are the layer names.

    A file that ends in the raw heads can be read again as model `onnx`, without options.
    """
    loaded = load_model(model, weights, size, preset, model_option)
    proto = decoded(loaded.proto, loaded, decode)
    if decode == "post":
        proto = describe(loaded)
    write_whole(out, proto.SerializeToString())
    terminal.say(f"{out}: {len(loaded.layers)} layers, {out.stat().st_size / 1e6:.1f} MB")


def layers(
    model: Model,
    weights: Weights,
    backend: Annotated[
        list[str] | None, typer.Option(help="Also show a backend's names; repeat for several.")
    ] = None,
    policy: PolicyFile = None,
    placement: Placement = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show every layer: its names, a framework's names for it, and whether it is quantized."""
    loaded = load_model(model, weights, size, preset, model_option)
    plugins = [registry.load_backend(name) for name in unique(backend or [])]
    found = layer_report.rows(
        loaded, placement_plan(loaded, read_policy(policy, placement=placement)), plugins
    )
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        terminal.console().print(layer_report.table(found, plugins))
        for line in layer_report.summary(found):
            terminal.say(line)


def calibrate(
    model: Model,
    weights: Weights,
    data: DataRoot,
    backend: Backend,
    out: Annotated[Path, typer.Option(help="Calibration table (JSON) to write.")],
    policy: PolicyFile = None,
    images: Images = None,
    placement: Placement = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    device: Device = "auto",
    keep_histograms: Annotated[
        bool,
        typer.Option(
            "--keep-histograms", help="The table also serves `recalibrate`; larger, and slower."
        ),
    ] = False,
    threads: Threads = None,
) -> None:
    """Find the ranges of a model's tensors with one framework.

    Where the policy lists several `observers`, each gets a table: TABLE.max.json, and so on.
    """
    chosen = read_policy(policy, images, placement)
    ensure_folder(out.parent)
    loaded = load_model(model, weights, size, preset, model_option)
    where = pipeline.Data(data, calibration=split)
    options = SessionOptions(device=device, threads=threads)
    given = (chosen.each(), backend, options, keep_histograms, for_console())
    found = pipeline.calibrate_each(loaded, where, *given)
    terminal.say(f"float network: agrees with the ONNX graph to {found[0].parity:.1e} relative")
    for one, path in zip(found, table_paths(out, chosen), strict=True):
        one.table.save(path)
        if one.audit is not None:
            terminal.say(terminal.audit(one.audit, backend))
        else:
            terminal.say(f"audit: none, {backend} does not simulate such a graph")
        terminal.say(f"{path}: {_calibrated(one)}")


def _calibrated(found: pipeline.Calibrated) -> str:
    count = len(found.table.provenance.image_ids)
    kept = ", with histograms" if found.table.kept else ""
    return (
        f"{len(found.table.tensors)} tensors{kept} from {count} images in {found.seconds:.1f} s, "
        f"peak memory {found.peak_rss_mb:.0f} MB"
    )


def quantize(
    model: Model,
    weights: Weights,
    table: Annotated[Path, typer.Option(help="Calibration table, from any backend.")],
    out: Annotated[Path, typer.Option(help="Q/DQ ONNX file to write.")],
    policy: PolicyFile = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    decode: Decode = "post",
    precision: Precision = "int8",
) -> None:
    """Write the Q/DQ graph of a model and a calibration table."""
    loaded = load_model(model, weights, size, preset, model_option)
    chosen = CalibrationPolicy.load(policy) if policy else None
    qdq = pipeline.quantize(loaded, CalibrationTable.load(table), chosen, precision)
    qdq = replace(qdq, proto=decoded(qdq.proto, loaded, decode))
    pipeline.save_qdq(qdq, out)
    terminal.say(
        f"{out}: {qdq.manifest['activations']} activations and {qdq.manifest['weights']} weights "
        f"quantized, {out.stat().st_size / 1e6:.1f} MB"
    )


def evaluate(
    model: Model,
    weights: Weights,
    data: DataRoot,
    graph: Annotated[
        Path | None, typer.Option("--onnx", help="Graph to evaluate; the float model by default.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="File to evaluate that `build` wrote, instead of a graph.")
    ] = None,
    engine: Engine = REFERENCE_ENGINE,
    provider: Providers = None,
    engine_option: EngineOption = None,
    out: Annotated[Path | None, typer.Option(help="Result (JSON) to write.")] = None,
    images: EvalImages = None,
    size: Size = None,
    preset: Preset = None,
    model_option: ModelOption = None,
    split: EvaluationSplit = pipeline.EVALUATION_SPLIT,
    threads: Threads = None,
    batch_size: Annotated[int, typer.Option(help="Images per inference.", min=1)] = 1,
    against: Annotated[
        Path | None,
        typer.Option(help="Earlier result (JSON) on the same images: print the difference."),
    ] = None,
) -> None:
    """Measure accuracy and speed of the float model, or of a graph made from it.

    Of detectors the COCO figures, of classifiers top-1 and top-5.
    """
    if graph is not None and plan is not None:
        raise UsageError("give --onnx or --plan, not both: a plan already holds its graph")
    if out is not None:
        ensure_folder(out.parent)
    loaded = load_model(model, weights, size, preset, model_option)
    main = task_of(loaded).metric.name
    reference = _drawn(against, main) if against else None
    short = {"threads": threads, "providers": provider, "max_batch": batch_size}
    options = engine_options([engine], engine_option, **short)[engine]
    what = plan or (pipeline.load_onnx(graph) if graph else loaded.proto)
    found = pipeline.evaluate(
        loaded,
        what,
        pipeline.Data(data, evaluation=split),
        pipeline.Evaluation(engine, options, images, batch_size),
        Runtime(InProcess(), progress=for_console()),
    )
    terminal.console().print(terminal.evaluation(found))
    busy = terminal.load([found.latency])
    if busy:
        terminal.say(f"note: {busy}")
    files = {"onnx": str(graph) if graph else None, "plan": str(plan) if plan else None}
    result = {"model": model, **files, **found.to_dict()}
    result |= {"versions": dict(found.versions)}
    if found.draws and reference:
        change = found.draws.against(reference)
        result |= {"against": str(against), f"{main}_difference": plain(change)}
        terminal.say(
            f"{found.metric.title} against {against}: {terminal.estimate(change, sign='+')}"
        )
    if out is not None:
        if found.draws:
            result |= {f"{main}_draws": found.draws.to_dict()}
        write_whole(out, json.dumps(result, indent=1) + "\n")
        terminal.say(f"{out}: written")


def _drawn(path: Path, main: str) -> FigureDraws:
    """The draws of the main figure in a result of `evaluate --out`."""
    try:
        found = parse_json(read_text(path, _MOST_BYTES, UsageError), infinite=True)
        return FigureDraws.from_dict(found[f"{main}_draws"], main)
    except (UsageError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"--against {path}: not a result of `quantcore evaluate --out`: {shown(error)}"
        ) from None
