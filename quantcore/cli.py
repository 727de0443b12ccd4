"""The command line; every command is a thin call into the pipeline."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated

import onnx
import typer

import quantcore
from quantcore import comparison, pipeline, registry
from quantcore.engine import EngineOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import BackendError, PluginError, QuantcoreError, UsageError
from quantcore.evaluation.decode_graph import append_decode
from quantcore.files import ensure_folder, write_whole
from quantcore.ir import FloatModel
from quantcore.model import ModelOptions
from quantcore.policy import CalibrationPolicy
from quantcore.progress import for_console
from quantcore.qdq.placement import plan
from quantcore.report import layers as layer_report
from quantcore.report import terminal
from quantcore.report.record import RunRecord
from quantcore.table import CalibrationTable

app = typer.Typer(
    name="quantcore",
    help="Quantize one detector through any framework, and compare what comes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Model = Annotated[
    str, typer.Argument(help="yolov7-tiny, yolov5n, onnx, ...: see `quantcore list`.")
]
Weights = Annotated[Path, typer.Option(help="Checkpoint (.pt, .safetensors) or ONNX file.")]
DataRoot = Annotated[
    Path, typer.Option("--data", help="COCO-format folder with annotations/ and the images.")
]
Preset = Annotated[
    str | None,
    typer.Option(help="Pre- and post-processing of an `onnx` model: yolov5, yolov7 or yolox."),
]
Size = Annotated[
    int | None, typer.Option(help="Side of the square network input in pixels.", min=1)
]
Backend = Annotated[str, typer.Option(help="Backend plugin: see `quantcore list`.")]
Engine = Annotated[str, typer.Option(help="Engine plugin: see `quantcore list`.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the engine.", min=1)]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Calibration policy (YAML).")]
Images = Annotated[
    int | None, typer.Option(help="Images to calibrate on; overrides the policy.", min=1)
]
EvalImages = Annotated[
    int | None, typer.Option(help="Images to evaluate on; all by default.", min=1)
]
Decode = Annotated[
    str,
    typer.Option(help="graph: boxes are decoded in the graph; post: it ends in the raw heads."),
]
Device = Annotated[str, typer.Option(help="Where the framework computes: auto, cpu or cuda.")]
CalibrationSplit = Annotated[str, typer.Option(help="Split to calibrate on.")]
EvaluationSplit = Annotated[str, typer.Option(help="Split to evaluate on.")]


def main() -> None:
    """Runs the command line; quantcore's own errors become one line and exit code 2."""
    try:
        app()
    except QuantcoreError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"quantcore {quantcore.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command("list")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the installed models, backends and engines, and what is in the way of any."""
    groups = (registry.MODELS, registry.BACKENDS, registry.ENGINES)
    found = {group: registry.installed(group) for group in groups}
    if as_json:
        data = {g.rpartition(".")[2]: [i.to_dict() for i in infos] for g, infos in found.items()}
        print(json.dumps(data, indent=1))
    else:
        terminal.console().print(
            terminal.plugins([info for infos in found.values() for info in infos])
        )


@app.command()
def export(
    model: Model,
    weights: Weights,
    out: Annotated[Path, typer.Option(help="ONNX file to write.")],
    decode: Decode = "post",
    size: Size = None,
    preset: Preset = None,
) -> None:
    """Write the float ONNX graph of a checkpoint; node names are the layer names."""
    loaded = _load(model, weights, size, preset)
    proto = _decoded(loaded.proto, loaded, decode)
    write_whole(out, proto.SerializeToString())
    print(f"{out}: {len(loaded.layers)} layers, {out.stat().st_size / 1e6:.1f} MB")


@app.command()
def layers(
    model: Model,
    weights: Weights,
    backend: Annotated[
        list[str] | None, typer.Option(help="Also show a backend's names; repeat for several.")
    ] = None,
    policy: PolicyFile = None,
    size: Size = None,
    preset: Preset = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show every layer: its names, a framework's names for it, and whether it is quantized."""
    loaded = _load(model, weights, size, preset)
    plugins = [registry.load_backend(name) for name in _unique(backend or [])]
    found = layer_report.rows(loaded, plan(loaded, _policy(policy, None)), plugins)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        terminal.console().print(layer_report.table(found, plugins))


@app.command()
def calibrate(
    model: Model,
    weights: Weights,
    data: DataRoot,
    backend: Backend,
    out: Annotated[Path, typer.Option(help="Calibration table (JSON) to write.")],
    policy: PolicyFile = None,
    images: Images = None,
    size: Size = None,
    preset: Preset = None,
    split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    device: Device = "auto",
) -> None:
    """Find the ranges of a model's tensors with one framework."""
    chosen = _policy(policy, images)
    ensure_folder(out.parent)
    loaded = _load(model, weights, size, preset)
    found = pipeline.calibrate(
        loaded, chosen, backend, pipeline.Data(data, calibration=split), device, for_console()
    )
    found.table.save(out)
    print(f"float network: agrees with the ONNX graph to {found.parity:.1e} relative")
    if found.audit is not None:
        print(terminal.audit(found.audit, backend))
    print(
        f"{out}: {len(found.table.tensors)} tensors from "
        f"{len(found.table.provenance.image_ids)} images in {found.seconds:.1f} s, "
        f"peak memory {found.peak_rss_mb:.0f} MB"
    )


@app.command()
def quantize(
    model: Model,
    weights: Weights,
    table: Annotated[Path, typer.Option(help="Calibration table, from any backend.")],
    out: Annotated[Path, typer.Option(help="Q/DQ ONNX file to write.")],
    policy: PolicyFile = None,
    size: Size = None,
    preset: Preset = None,
    decode: Decode = "post",
) -> None:
    """Write the Q/DQ graph of a model and a calibration table."""
    loaded = _load(model, weights, size, preset)
    chosen = CalibrationPolicy.load(policy) if policy else None
    qdq = pipeline.quantize(loaded, CalibrationTable.load(table), chosen)
    qdq = replace(qdq, proto=_decoded(qdq.proto, loaded, decode))
    pipeline.save_qdq(qdq, out)
    print(
        f"{out}: {qdq.manifest['activations']} activations and {qdq.manifest['weights']} weights "
        f"quantized, {out.stat().st_size / 1e6:.1f} MB"
    )


@app.command()
def evaluate(
    model: Model,
    weights: Weights,
    data: DataRoot,
    graph: Annotated[
        Path | None, typer.Option("--onnx", help="Graph to evaluate; the float model by default.")
    ] = None,
    engine: Engine = REFERENCE_ENGINE,
    out: Annotated[Path | None, typer.Option(help="Result (JSON) to write.")] = None,
    images: EvalImages = None,
    size: Size = None,
    preset: Preset = None,
    split: EvaluationSplit = pipeline.EVALUATION_SPLIT,
    threads: Threads = None,
    batch_size: Annotated[int, typer.Option(help="Images per inference.", min=1)] = 1,
) -> None:
    """Measure accuracy (COCO figures) and speed of the float model, or of a graph made from it."""
    if out is not None:
        ensure_folder(out.parent)
    loaded = _load(model, weights, size, preset)
    proto = pipeline.load_onnx(graph) if graph else loaded.proto
    how = pipeline.Evaluation(engine, EngineOptions(threads), images, batch_size)
    found = pipeline.evaluate(
        loaded, proto, pipeline.Data(data, evaluation=split), how, for_console()
    )
    terminal.console().print(terminal.evaluation(found))
    if out is not None:
        result = {"model": model, "onnx": str(graph) if graph else None, **found.to_dict()}
        write_whole(out, json.dumps({**result, "versions": dict(found.versions)}, indent=1) + "\n")
        print(f"{out}: written")


@app.command()
def compare(
    model: Model,
    weights: Weights,
    data: DataRoot,
    backend: Annotated[list[str], typer.Option(help="Backend plugin; repeat for several.")],
    out: Annotated[Path, typer.Option(help="Folder for report and artifacts.")],
    engine: Engine = REFERENCE_ENGINE,
    policy: PolicyFile = None,
    images: Images = None,
    eval_images: EvalImages = None,
    size: Size = None,
    preset: Preset = None,
    calibration_split: CalibrationSplit = pipeline.CALIBRATION_SPLIT,
    evaluation_split: EvaluationSplit = pipeline.EVALUATION_SPLIT,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Quantize a model through several frameworks and compare accuracy and speed."""
    chosen = _policy(policy, images)
    ensure_folder(out)
    record = comparison.compare(
        _load(model, weights, size, preset),
        weights,
        chosen,
        _unique(backend),
        pipeline.Data(data, calibration_split, evaluation_split),
        out,
        pipeline.Evaluation(engine, EngineOptions(threads), eval_images),
        device,
        for_console(),
        print,
    )
    _show(record, out)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for report and artifacts.")] = Path(
        "quantcore-demo"
    ),
    backend: Annotated[
        list[str] | None, typer.Option(help="Backend plugin; all that work by default.")
    ] = None,
) -> None:
    """Run `compare` on a small detector and images that come with quantcore; needs no network."""
    usable = [i.name for i in registry.installed(registry.BACKENDS) if i.unavailable is None]
    chosen = _unique(backend or usable)
    if not chosen:
        raise PluginError(
            "no backend is installed; `quantcore list` shows them, requirements/demo.txt has one"
        )
    with resources.as_file(resources.files("quantcore") / "demo_data") as root:
        about = json.loads((root / "demo.json").read_text(encoding="utf-8"))
        weights = root / about["weights"]
        ensure_folder(out)
        record = comparison.compare(
            _load(about["model"], weights, None, None),
            weights,
            CalibrationPolicy(),
            chosen,
            pipeline.Data(root),
            out,
            pipeline.Evaluation(),
            progress=for_console(),
            say=print,
        )
        _show(record, out)
        print(f"Open {out / 'report.html'}; the Q/DQ graphs and tables lie beside it.")
        print(
            "Next, your own model: quantcore compare yolov7 --weights yolov7.pt --data COCO_FOLDER "
            + " ".join(f"--backend {name}" for name in chosen)
            + " --out comparison"
        )


def _load(model: str, weights: Path, size: int | None, preset: str | None) -> FloatModel:
    return pipeline.load_model(model, weights, ModelOptions(size, preset))


def _decoded(proto: onnx.ModelProto, model: FloatModel, decode: str) -> onnx.ModelProto:
    """The graph, with the box decoding drawn into it where that is asked for."""
    if decode == "graph":
        return append_decode(proto, model.decoding, model.preprocessing.size)
    if decode != "post":
        raise UsageError(f"--decode must be graph or post, not {decode!r}")
    return proto


def _policy(path: Path | None, images: int | None) -> CalibrationPolicy:
    policy = CalibrationPolicy.load(path) if path else CalibrationPolicy()
    return policy if images is None else replace(policy, images=images)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _show(record: RunRecord, out: Path) -> None:
    """Prints the comparison; a backend that failed makes the command fail, after the report."""
    terminal.console().print(terminal.comparison(record))
    print(f"{out / 'report.json'} and {out / 'report.html'}: written")
    if record.failures:
        lines = "; ".join(f"{f.backend}: {f.error}" for f in record.failures)
        raise BackendError(f"not every backend finished: {lines}")
