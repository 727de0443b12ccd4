"""Graphs from file to file: the float model, its rewrites, the Q/DQ graph."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx

from quantcore.contracts import registry
from quantcore.contracts.model import ModelOptions
from quantcore.data.batches import Batches
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import CheckpointError, UsageError
from quantcore.ir.description import describe
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.pipeline.settings import Chosen, Data, Given
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.qdq.precision import with_precision
from quantcore.results.rewrites import Rewritten
from quantcore.runtime.files import write_whole
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable


def load_model(
    name: str, weights: Path | str, options: ModelOptions | None = None, **given: Any
) -> FloatModel:
    """The float model of a checkpoint.

    Args:
        name: Of the model plugin: `yolov7-tiny`, `onnx`, ...; see `quantcore.plugins`.
        weights: The file.
        options: The plugin's own options; its defaults where None.
        given: Fields of those options, in place of `options`: `preset="yolox"`.

    Raises:
        PluginError: No such model.
        CheckpointError: Not readable, unsafe, or another architecture.
        UsageError: An option that the model does not take.
    """
    plugin = registry.load_model(name)
    if given:
        known = [field.name for field in fields(plugin.options)]
        for option in given:
            if option not in known:
                takes = ", ".join(known)
                raise UsageError(f"model {name!r} has no option {option!r}; it takes: {takes}")
        options = plugin.options(**given)
    return plugin.load(Path(weights), options or plugin.options())


def save_model(model: FloatModel, path: Path | str) -> None:
    """Writes the float model as an ONNX file that describes itself: model `onnx` reads it again."""
    write_whole(Path(path), describe(model).SerializeToString())


def rewrite(
    model: FloatModel,
    name: str,
    data: Given | Chosen,
    images: int = 80,
    seed: int = 0,
    options: object | None = None,
    table: CalibrationTable | None = None,
    progress: Progress | None = None,
) -> Rewritten:
    """The model after a rewrite, which is held to what it claims.

    Args:
        model: The float model.
        name: Of the rewrite.
        data: Where the calibration images are, or those that were chosen already.
        images: How many.
        seed: Which ones, as in a policy.
        options: The rewrite's own; its defaults where None.
        table: Ranges of the model, for a rewrite that works on them.
        progress: Where to report.

    Raises:
        QuantcoreError: As `Rewrite.apply`, or the rewrite or the images are not there.
    """
    plugin = registry.load_rewrite(name)
    plugin.check_table(model, table)
    if not isinstance(data, Chosen):
        data = Chosen(Data.of(data).calibration_set().select(images, seed))
    batches = Batches(data.images, model.preprocessing, model.batch_size or 1)
    engine = registry.load_engine(REFERENCE_ENGINE)
    return plugin.apply(model, table, batches, engine, options, progress)


def quantize(
    model: FloatModel,
    table: CalibrationTable,
    policy: CalibrationPolicy | None = None,
    precision: str = "int8",
) -> QdqModel:
    """The Q/DQ graph of a model and a table, from whichever framework the table came.

    Args:
        model: The float model.
        table: Calibrated on the same graph.
        policy: What to quantize; None for the policy that the table was made with.
        precision: `int8` leaves the rest in FP32, `int8+fp16` writes it in FP16.

    Raises:
        UsageError: An unknown precision.
    """
    policy = policy or CalibrationPolicy.from_dict(table.provenance.policy)
    return typed(model, insert(model, plan(model, policy), table), policy, precision)


def typed(model: FloatModel, qdq: QdqModel, policy: CalibrationPolicy, precision: str) -> QdqModel:
    """The Q/DQ graph with what stays unquantized in the wanted precision."""
    found = with_precision(model, qdq.proto, policy, precision)
    manifest = {**qdq.manifest, "precision": precision, "kept_fp32": dict(found.kept)}
    return QdqModel(found.proto, manifest)


def save_qdq(qdq: QdqModel, path: Path | str) -> None:
    """Writes the graph, and its manifest beside it as `<name>.manifest.json`."""
    path = Path(path)
    write_whole(path, qdq.proto.SerializeToString())
    manifest = json.dumps(dict(qdq.manifest), indent=1, sort_keys=True) + "\n"
    write_whole(path.with_suffix(".manifest.json"), manifest)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Reads an ONNX graph.

    Raises:
        CheckpointError: Not there, or not ONNX.
    """
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf, the checker and the file system each have their own
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not a readable ONNX graph: {reason}") from None
    return proto
