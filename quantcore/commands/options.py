"""Options that several commands share, and what they turn into."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import onnx
import typer

from quantcore import pipeline
from quantcore.commands.command import names_of
from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.options import described, filled, pairs
from quantcore.errors import UsageError
from quantcore.evaluation.decode_graph import append_decode
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import Profile
from quantcore.report import terminal
from quantcore.runtime.executor import Executor
from quantcore.training.recipe import Recipe

Model = Annotated[
    str,
    typer.Argument(
        help="yolov7-tiny, yolov5n, onnx, ...: see `quantcore list`.",
        autocompletion=names_of(registry.MODELS),
    ),
]
Weights = Annotated[Path, typer.Option(help="Checkpoint (.pt, .safetensors) or ONNX file.")]
DataRoot = Annotated[
    Path,
    typer.Option(
        "--data",
        help="COCO folder, FILE.json or FILE.json:IMAGES, data.yaml, Pascal VOC folder, "
        "ROOT/SPLIT/CLASS/, or a folder of images: see `quantcore data`.",
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model-option", help="NAME=VALUE, an option of the model's own; repeatable."),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Short for --model-option preset=NAME: pre- and post-processing of an `onnx` model "
        "that does not say its own."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Network input in pixels: HEIGHTxWIDTH, or the side of a square.",
        metavar="H[xW]",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        help="Backend plugin: see `quantcore list`.",
        autocompletion=names_of(registry.BACKENDS),
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="Engine plugin: see `quantcore list`.",
        autocompletion=names_of(registry.ENGINES),
    ),
]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=VALUE of the engine, or ENGINE.NAME=VALUE; repeat for several. "
        "`quantcore list --options ENGINE` shows them."
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads of the engine, or of the framework.", min=1)
]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider", help="Execution provider (onnxruntime); repeat, the most wanted first."
    ),
]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="Calibration policy (YAML).")]
Images = Annotated[
    int | None, typer.Option(help="Images to calibrate on; overrides the policy.", min=1)
]
EvalImages = Annotated[
    int | None,
    typer.Option("--eval-images", help="Images to evaluate on; all by default.", min=1),
]
Decode = Annotated[
    str,
    typer.Option(help="graph: boxes are decoded in the graph; post: it ends in the raw heads."),
]
Precision = Annotated[
    str, typer.Option(help="int8: the rest stays FP32; int8+fp16: the rest is written in FP16.")
]
Placement = Annotated[
    str | None,
    typer.Option(help="Placement profile, a name or a YAML file; overrides the policy."),
]
Device = Annotated[str, typer.Option(help="Where the framework computes: auto, cpu or cuda.")]
Qat = Annotated[
    bool,
    typer.Option("--qat", help="Add what training makes of it, in every backend that trains."),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="With --qat: how to train (YAML); see docs/training.md."),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="Where work is done: see `quantcore list`.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Short for --executor-option scheduler=ADDRESS (or a scheduler file)."),
]
ExecutorOption = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=VALUE of the executor; repeatable. `quantcore list --options NAME` shows them."
    ),
]
CalibrationSplit = Annotated[
    str, typer.Option("--calibration-split", help="Split to calibrate on.")
]
EvaluationSplit = Annotated[str, typer.Option("--evaluation-split", help="Split to evaluate on.")]

#: The executor that is there without anything else.
LOCAL = "local"

#: Options of engines that commands spell out, and what they are called there.
SHORT_FORMS = {
    "threads": "--threads",
    "providers": "--provider",
    "max_batch": "--max-batch",
    "target": "--target",
    "timing_cache": "--timing-cache",
}


@contextmanager
def opened_executor(
    name: str, scheduler: str | None = None, written: Sequence[str] | None = None
) -> Iterator[Executor]:
    """The executor that the shared options describe, for the time of one command.

    Args:
        name: Of the executor.
        scheduler: Where a cluster's scheduler is.
        written: Values of `--executor-option`.

    Raises:
        UsageError: The executor has no such option.
        ExecutorError: What it connects to is not there.
    """
    plugin = registry.load_executor(name)
    given = pairs(written or ())
    if scheduler is not None:
        given.append(("scheduler", scheduler))
    options = plugin.make_options(given)
    with plugin.open(options) as executor:
        if told := executor.describe():
            terminal.say(f"{name}: {told}")
        yield executor


def load_model(
    model: str,
    weights: Path,
    size: str | None = None,
    preset: str | None = None,
    model_option: list[str] | None = None,
) -> FloatModel:
    """The float model that the shared options describe.

    Raises:
        UsageError: The model takes other options (names them), or the size is none.
    """
    given = pairs(model_option or ())
    if preset is not None:
        given.append(("preset", preset))
    kind = registry.load_model(model).options
    return pipeline.load_model(
        model, weights, filled(kind, given, f"model {model!r}", image_size=read_size(size))
    )


def read_size(written: str | None) -> int | tuple[int, int] | None:
    """The size of a network input as a person wrote it: `480x640` (height first), or `640`.

    Raises:
        UsageError: It is neither, or not positive.
    """
    if written is None:
        return None
    sides = written.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise UsageError(
            f"--size is HEIGHTxWIDTH in pixels, or the side of a square, not {written!r}; "
            "write 480x640 or 640"
        )
    height, width = int(sides[0]), int(sides[-1])
    return height if len(sides) == 1 else (height, width)


def decoded(proto: onnx.ModelProto, model: FloatModel, decode: str) -> onnx.ModelProto:
    """The graph, with the box decoding drawn into it where that is asked for."""
    if decode == "graph":
        return append_decode(proto, model.decoding, model.preprocessing.size)
    if decode != "post":
        raise UsageError(f"--decode must be graph or post, not {decode!r}")
    return proto


def read_policy(
    path: Path | None, images: int | None = None, placement: str | None = None
) -> CalibrationPolicy:
    """The policy of a file, or the default one, with what the command line overrides."""
    policy = CalibrationPolicy.load(path) if path else CalibrationPolicy()
    if images is not None:
        policy = replace(policy, images=images)
    if placement is not None:
        policy = replace(policy, placement=Profile.read(placement))
    return policy


def read_recipe(qat: bool, path: Path | None) -> Recipe | None:
    """How networks are trained; None where they are not.

    Raises:
        UsageError: A recipe, but no training.
    """
    if qat:
        return Recipe.load(path) if path else Recipe()
    if path is not None:
        raise UsageError("--recipe needs --qat")
    return None


def engine_options(
    engines: Sequence[str], written: Sequence[str] | None = None, **short: object
) -> dict[str, EngineOptions]:
    """The options of the chosen engines; each option goes to those engines that have it.

    Args:
        engines: Their names.
        written: Values of `--engine-option`.
        short: Options that the command line spells out (`SHORT_FORMS`), by their names; what was
            not given is None or empty.

    Raises:
        UsageError: None of the engines has an option, or a value does not fit.
    """
    plugins = {name: registry.load_engine(name) for name in engines}
    given: dict[str, list[tuple[str, str]]] = {name: [] for name in engines}
    for name, found in short.items():
        values = found if isinstance(found, list) else [found]
        for value in values:
            if value is not None:
                for taker in _takers(plugins, name, SHORT_FORMS[name]):
                    given[taker].append((name, str(value)))
    for written_name, value in pairs(written or ()):
        engine, dot, name = written_name.partition(".")
        if not dot:
            name, takers = written_name, _takers(plugins, written_name, "--engine-option")
        elif engine in plugins:
            takers = [engine]
        else:
            raise UsageError(
                f"--engine-option {written_name}: {engine!r} is none of the chosen engines: "
                f"{', '.join(engines)}"
            )
        for taker in takers:
            given[taker].append((name, value))
    return {name: plugin.make_options(given[name]) for name, plugin in plugins.items()}


def _takers(plugins: Mapping[str, EnginePlugin], name: str, said: str) -> list[str]:
    """The engines that have an option; raises UsageError where none has."""
    known = {
        engine: [info.name for info in described(plugin.options)]
        for engine, plugin in plugins.items()
    }
    wanted = name.replace("-", "_")
    takers = [engine for engine, names in known.items() if wanted in names]
    if takers:
        return takers
    close = difflib.get_close_matches(wanted, {n for names in known.values() for n in names}, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    takes = "; ".join(f"{engine} takes: {', '.join(names)}" for engine, names in known.items())
    raise UsageError(f"{said}: {', '.join(known)} has no option {name!r}{hint}; {takes}")


def table_paths(out: Path, policy: CalibrationPolicy) -> list[Path]:
    """Where the table of each of the policy's observers goes: `out`, or `out` with their names."""
    if not policy.observers:
        return [out]
    return [out.with_name(f"{out.stem}.{one.label}{out.suffix}") for one in policy.observers]


def command_line() -> str:
    """What a person typed, for the record."""
    return shlex.join(["quantcore", *sys.argv[1:]])


def unique(names: Iterable[str]) -> list[str]:
    """The names in order, each once."""
    return list(dict.fromkeys(names))
