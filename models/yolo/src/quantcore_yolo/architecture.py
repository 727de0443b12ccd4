"""Turns a checkpoint's layer list and weights into a FloatModel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantcore.errors import CheckpointError, UsageError
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.ir.model import FloatModel, Preprocessing
from quantcore.showing import one_line, shown
from quantcore_yolo.blocks import BLOCKS, HEADS, REPEATING, Context
from quantcore_yolo.checkpoint import Checkpoint
from quantcore_yolo.families import check_family
from quantcore_yolo.graph import GraphBuilder, Value
from quantcore_yolo.rows import IMAGE, Row, parse_rows
from quantcore_yolo.weights import Weights

#: Side of the network input that all these detectors were trained for, in pixels.
DEFAULT_IMAGE_SIZE = 640

Anchors = tuple[tuple[tuple[float, float], ...], ...]


def build_model(
    checkpoint: Checkpoint, name: str, wanted: tuple[int, int] | None = None
) -> FloatModel:
    """Writes the float model of a checkpoint.

    Args:
        checkpoint: Weights and layer list.
        name: The model that it is expected to be: `yolov5n`, `yolov7-tiny`, ...
        wanted: (height, width) of the network input in pixels; None for the checkpoint's own, or
            640 x 640.

    Returns:
        A graph from `images` (batch x 3 x height x width, RGB, 0..1) to the raw heads, finest
        first.

    Raises:
        CheckpointError: Another architecture, an unsupported module, or weights that do not fit.
        UsageError: An image size that is no multiple of the coarsest stride.
    """
    rows = parse_rows(checkpoint.yaml, checkpoint.origin)
    _check_modules(rows, checkpoint.origin)
    check_family(rows, checkpoint, name)
    builder, weights = GraphBuilder(checkpoint.origin), Weights(checkpoint)
    context = _context(checkpoint, builder, weights)
    heads = _write_heads(rows[-1], _write_rows(rows[:-1], rows[-1], context), context)
    weights.check_all_read()
    size = _image_size(checkpoint, wanted, int(builder.max_stride))
    strides = tuple(int(head.stride) for head in heads)
    anchors = _anchors(checkpoint, rows[-1], strides)
    classes = _class_count(checkpoint, heads, anchors)
    return FloatModel(
        name=name,
        proto=builder.finish(heads, size),
        preprocessing=Preprocessing(size=size),
        decoding=AnchorDecoding(strides, anchors),
        class_names=checkpoint.class_names or tuple(f"class{i}" for i in range(classes)),
    )


def _check_modules(rows: tuple[Row, ...], origin: str) -> None:
    """Every module is known, and a detection head is the last one and only there."""
    for row in rows:
        if row.module not in BLOCKS and row.module not in HEADS:
            raise CheckpointError(
                f"{origin}: row {row.index} is a {one_line(row.module, 80)}, which is not "
                f"supported; supported are {', '.join(sorted([*BLOCKS, *HEADS]))}"
            )
    places = [row.index for row in rows if row.module in HEADS]
    if places != [len(rows) - 1]:
        raise CheckpointError(
            f"{origin}: not a detector: its last row is a {one_line(rows[-1].module, 80)}, and "
            "must be its only Detect or IDetect"
        )


def _context(checkpoint: Checkpoint, builder: GraphBuilder, weights: Weights) -> Context:
    default = checkpoint.yaml.get("activation")
    return Context(
        origin=checkpoint.origin,
        graph=builder,
        weights=weights,
        activations=checkpoint.activations,
        default_activation=default if isinstance(default, str) else "SiLU",
    )


def _write_rows(rows: tuple[Row, ...], head: Row, context: Context) -> list[Value]:
    """Writes all modules before the head; returns what the head reads."""
    values: dict[int, Value] = {IMAGE: context.graph.image}
    for row in rows:
        inputs = [values[i] for i in row.sources]
        write = BLOCKS[row.module]
        if row.repeats == 1 or row.module in REPEATING:
            values[row.index] = write(context, row.path, inputs, row)
            continue
        for i in range(row.repeats):
            inputs = [write(context, f"{row.path}.{i}", inputs, row)]
        values[row.index] = inputs[0]
    return [values[i] for i in head.sources]


def _write_heads(row: Row, inputs: list[Value], context: Context) -> list[Value]:
    """Writes the detection convolutions; all that follows them is described by the decoding."""
    builder, weights, heads = context.graph, context.weights, []
    for level, x in enumerate(inputs):
        weight, bias = weights.head(row.path, level)
        heads.append(builder.conv(f"{row.path}.m.{level}", x, weight, bias, 1, 0, 1))
        if x.stride.denominator != 1:
            raise CheckpointError(f"{context.origin}: head {level} is finer than the image")
    return heads


def _image_size(
    checkpoint: Checkpoint, wanted: tuple[int, int] | None, stride: int
) -> tuple[int, int]:
    own = checkpoint.image_size or DEFAULT_IMAGE_SIZE
    size = wanted or (own, own)
    for side in size:
        if side < 1 or side % stride:
            nearest = max(stride, round(side / stride) * stride)
            raise UsageError(
                f"image size {side} is no multiple of this model's stride {stride}; try {nearest}"
            )
    return size


def _anchors(checkpoint: Checkpoint, row: Row, strides: tuple[int, ...]) -> Anchors:
    """Anchors in pixels: the trained ones, which are in cells, or else those of the yaml."""
    trained = checkpoint.tensors.get(f"{row.path}.anchors")
    if trained is not None and trained.ndim == 3 and trained.shape[::2] == (len(strides), 2):
        cells = trained.astype(np.float64)
        pixels = [level * stride for level, stride in zip(cells, strides, strict=True)]
    else:
        pixels = _yaml_anchors(checkpoint.yaml, checkpoint.origin, len(strides))
    if not all(np.isfinite(level).all() and (level > 0).all() for level in pixels):
        raise CheckpointError(f"{checkpoint.origin}: its anchors must be positive")
    return tuple(tuple((float(w), float(h)) for w, h in level) for level in pixels)


def _yaml_anchors(
    yaml: Mapping[str, object], origin: str, levels: int
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    try:
        pixels = np.array(yaml.get("anchors"), dtype=np.float64).reshape(levels, -1, 2)
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{origin}: has neither trained anchors nor a list of {levels} sets of anchors"
        ) from None
    return list(pixels)


def _class_count(checkpoint: Checkpoint, heads: list[Value], anchors: Anchors) -> int:
    """Number of classes, on which the heads, the yaml and the names must agree."""
    counts = {h.channels / len(level) - 5 for h, level in zip(heads, anchors, strict=True)}
    classes = counts.pop()
    if counts or classes != int(classes) or classes < 1:
        raise CheckpointError(
            f"{checkpoint.origin}: heads of {[h.channels for h in heads]} channels do not fit "
            f"{[len(level) for level in anchors]} anchors"
        )
    told = {"yaml": checkpoint.yaml.get("nc", classes)}
    if checkpoint.class_names:
        told["list of names"] = len(checkpoint.class_names)
    for where, count in told.items():
        if count != classes:
            raise CheckpointError(
                f"{checkpoint.origin}: its heads have {int(classes)} classes, its {where} "
                f"{shown(count)}"
            )
    return int(classes)
