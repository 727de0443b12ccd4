"""What a preset makes of a graph's outputs: which of them count, and how they become boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from quantcore.errors import CheckpointError
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.grid import GridDecoding
from quantcore.ir.decoding import Decoding
from quantcore.ir.edits import attributes, fixed_shapes, producers

Anchors = tuple[tuple[tuple[float, float], ...], ...]

#: COCO anchors in pixels by preset, finest head first.
ANCHORS: dict[str, Anchors] = {
    "yolov5": (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    ),
    "yolov7": (
        ((12, 16), (19, 36), (40, 28)),
        ((36, 75), (76, 55), (72, 146)),
        ((142, 110), (192, 243), (459, 401)),
    ),
}
STRIDES = (8, 16, 32)

#: How a preset's graphs may leave their boxes; the last one is a graph that decodes by itself.
DECODINGS: dict[str, tuple[Decoding, Decoding]] = {
    **{name: (AnchorDecoding(STRIDES, a), DecodedBoxes()) for name, a in ANCHORS.items()},
    "yolox": (GridDecoding(STRIDES), DecodedBoxes()),
}
PRESETS = tuple(DECODINGS)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Heads:
    """The outputs that matter.

    Attributes:
        names: Of the tensors, in the order that `decoding` reads them.
        decoding: How they become boxes.
        classes: Number of classes.
    """

    names: tuple[str, ...]
    decoding: Decoding
    classes: int


def find_heads(model: onnx.ModelProto, preset: str, size: tuple[int, int], path: Path) -> Heads:
    """Finds the predictions among a graph's outputs.

    Args:
        model: With all shapes inferred and fixed.
        preset: One of `PRESETS`.
        size: (height, width) of the network input in pixels.
        path: The file, for error messages.

    Raises:
        CheckpointError: The outputs are not those of the preset.
    """
    shapes = fixed_shapes(model.graph)
    outputs = {o.name: shapes.get(o.name, ()) for o in model.graph.output}
    # An export may hold the raw heads beside the decoded predictions; the latter suffice.
    flat = [name for name, shape in outputs.items() if len(shape) == 3]
    if len(flat) == 1 and (len(outputs) == 1 or preset != "yolox"):
        return _flat(flat[0], outputs[flat[0]], preset, size, model, path)
    if preset in ANCHORS and len(outputs) == len(STRIDES) and not flat:
        return _anchored(model, outputs, preset, size, path)
    raise _unfit(preset, outputs, path)


def use_heads(graph: onnx.GraphProto, heads: Heads) -> None:
    """Makes the heads the outputs of the graph, in place; shapes are to be inferred again."""
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in heads.names
    )


def _flat(
    name: str, shape: Shape, preset: str, size: tuple[int, int], model: onnx.ModelProto, path: Path
) -> Heads:
    """One tensor B x N x (5+C)."""
    if shape[2] < 6 or shape[2] > shape[1]:
        raise _unfit(preset, {name: shape}, path)
    cells = sum((size[0] // s) * (size[1] // s) for s in STRIDES)
    raw, decoding = DECODINGS[preset]
    if preset == "yolox":
        if shape[1] != cells:
            raise _unfit(preset, {name: shape}, path)
        # Width and height are exponentials: a graph without Exp leaves decoding to its reader.
        if not any(node.op_type == "Exp" for node in model.graph.node):
            decoding = raw
    return Heads((name,), decoding, shape[2] - 5)


def _anchored(
    model: onnx.ModelProto,
    outputs: dict[str, Shape],
    preset: str,
    size: tuple[int, int],
    path: Path,
) -> Heads:
    """Three raw heads, finest first, each B x A*(5+C) x H x W."""
    shapes = fixed_shapes(model.graph)
    names = [
        _before_split(model.graph, n, shapes) if len(s) == 5 else n for n, s in outputs.items()
    ]
    heads = {n: shapes.get(n, ()) for n in names}
    if any(len(shape) != 4 or 0 in shape for shape in heads.values()):
        raise _unfit(preset, outputs, path)
    names.sort(key=lambda n: -heads[n][2])
    channels = {shape[1] for shape in heads.values()}
    wanted = [(size[0] // s, size[1] // s) for s in STRIDES]
    each = channels.pop() / len(ANCHORS[preset][0])
    if channels or each != int(each) or each < 6 or [heads[n][2:] for n in names] != wanted:
        raise _unfit(preset, outputs, path)
    return Heads(tuple(names), DECODINGS[preset][0], int(each) - 5)


def _before_split(graph: onnx.GraphProto, name: str, shapes: dict[str, Shape]) -> str:
    """The raw head behind a B x A x H x W x (5+C) output; the output itself if it is another.

    Exports reshape a head to B x A x (5+C) x H x W and move the middle to the end; both steps
    only rearrange, so that the tensor before them holds the same predictions.
    """
    makers = producers(graph)
    moved = makers.get(name)
    if moved is None or moved.op_type != "Transpose":
        return name
    if attributes(moved).get("perm") != [0, 1, 3, 4, 2]:
        return name
    split = makers.get(moved.input[0])
    if split is None or split.op_type != "Reshape":
        return name
    before, after = shapes.get(split.input[0], ()), shapes.get(split.output[0], ())
    return split.input[0] if len(before) == 4 and before[2:] == after[3:] else name


def _unfit(preset: str, outputs: dict[str, Shape], path: Path) -> CheckpointError:
    have = ", ".join(
        f"{n} {' x '.join(map(str, s)) or 'of unknown shape'}" for n, s in outputs.items()
    )
    wanted = "one output B x N x (5+classes)"
    if preset in ANCHORS:
        wanted += f", or three raw heads of strides {', '.join(map(str, STRIDES))}"
    return CheckpointError(f"{path}: preset {preset} needs {wanted}; this graph has {have}")
