"""Fixes height and width of a graph, and frees its batch size where that provably works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from quantcore.contracts.engine import EngineOptions
from quantcore.engines.onnxruntime import OnnxRuntimeEngine
from quantcore.errors import CheckpointError, EngineError, UsageError
from quantcore.ir.edits import add_constant, attributes, constants, copied, fixed_shapes
from quantcore.ir.model import Array
from quantcore.runtime.guarded import guarded

#: Side of the network input where neither the file nor the person says, in pixels.
DEFAULT_IMAGE_SIZE = 640

#: Largest difference between a batch of two and two batches of one, relative to the output.
_TOLERANCE = 1e-4


def fix_input(
    model: onnx.ModelProto,
    wanted: tuple[int, int] | None,
    told: tuple[int, int] | None,
    path: Path,
) -> tuple[int, int]:
    """Gives the image input a batch of 1 and a fixed size, in place.

    Args:
        model: The model.
        wanted: (height, width) in pixels that the person asked for, or None.
        told: What the file says where its input leaves the size open, or None.
        path: The file, for error messages.

    Returns:
        (height, width) in pixels.

    Raises:
        UsageError: The file is fixed at another size, or the size is not positive.
    """
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if wanted is not None and min(wanted) < 1:
        raise UsageError(f"image size must be positive, not {in_words(wanted)}")
    size, open_ = [], wanted or told or (DEFAULT_IMAGE_SIZE,) * 2
    for index, dim in enumerate(dims[2:]):
        if wanted is not None and dim.dim_value not in (0, wanted[index]):
            raise UsageError(
                f"{path}: its input is fixed at {dims[2].dim_value} x {dims[3].dim_value}; leave "
                f"image size {in_words(wanted)} away, or export the model at that size"
            )
        dim.dim_value = dim.dim_value or open_[index]
        size.append(int(dim.dim_value))
    dims[0].dim_value, dims[1].dim_value = 1, 3
    return size[0], size[1]


def in_words(size: tuple[int, int]) -> str:
    """A size as a person gives it: one number for a square."""
    height, width = size
    return str(height) if height == width else f"{height} x {width}"


def infer_shapes(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with all shapes inferred anew.

    Values are not propagated: that is what folding constants is for, and propagating them takes
    memory for whatever a file claims to compute.

    Raises:
        CheckpointError: The graph is not valid.
    """
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    content = model.SerializeToString()
    inferred = onnx.ModelProto()
    inferred.ParseFromString(guarded(_inferred, content, path=path, size=len(content)))
    return inferred


def _inferred(content: bytes) -> bytes:
    model = onnx.ModelProto.FromString(content)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True)
    return bytes(inferred.SerializeToString())


def use_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Makes tensors the outputs of a graph, in place; shapes are to be inferred again."""
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )


def check(model: onnx.ModelProto, path: Path) -> None:
    """Raises CheckpointError where the graph is not valid, or a shape is still unknown."""
    content = model.SerializeToString()
    guarded(_checked, content, path=path, size=len(content))


def _checked(content: bytes) -> bool:
    onnx.checker.check_model(content, full_check=True)
    return True


def free_batch(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """A copy with a dynamic batch dimension, or the model itself where that does not work.

    Args:
        model: With a batch of 1 and all shapes inferred.
        path: The file, for error messages.
    """
    shapes = fixed_shapes(model.graph)
    if any(shapes.get(o.name, (0,))[0] != 1 for o in model.graph.output):
        return model
    freed = copied(model)
    _free_reshapes(freed.graph, shapes)
    freed.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    try:
        freed = infer_shapes(freed, path)
        check(freed, path)
    except CheckpointError:
        return model
    for output in freed.graph.output:
        dims = output.type.tensor_type.shape.dim
        if not dims or dims[0].HasField("dim_value"):
            return model
        for dim, length in zip(dims, shapes[output.name], strict=True):
            dim.dim_value = length
        dims[0].dim_param = "batch"
    pair = model.SerializeToString(), freed.SerializeToString()
    given = (*pair, shapes[model.graph.input[0].name])
    try:
        same = guarded(_same_results, *given, path=path, size=sum(map(len, pair)))
    except CheckpointError:  # it does not run: whatever will run it says why
        same = False
    return freed if same else model


def _free_reshapes(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Lets Reshape keep the first dimension where its constant target says 1 for the batch."""
    targets = constants(graph)
    for index, node in enumerate(graph.node):
        if node.op_type != "Reshape" or attributes(node).get("allowzero"):
            continue
        target, shape = targets.get(node.input[1]), shapes.get(node.input[0])
        if target is not None and target.size and target[0] == 1 and shape and shape[0] == 1:
            patched = np.concatenate([[0], target[1:]]).astype(np.int64)
            node.input[1] = add_constant(graph, f"{node.input[1]}.batch.{index}", patched)


def _same_results(single: bytes, several: bytes, shape: tuple[int, ...]) -> bool:
    """Whether a batch of two different images gives what the images give alone."""
    one, many = onnx.ModelProto.FromString(single), onnx.ModelProto.FromString(several)
    images = np.random.default_rng(0).random((2, *shape[1:]), dtype=np.float32)
    try:
        alone = [_run(one, image[None]) for image in images]
        together = _run(many, images)
    except EngineError:
        return False
    for i, output in enumerate(together):
        wanted = np.concatenate([a[i] for a in alone])
        if wanted.shape != output.shape:
            return False
        if np.abs(wanted - output).max() > _TOLERANCE * max(float(np.abs(wanted).max()), 1e-6):
            return False
    return True


def _run(model: onnx.ModelProto, images: Array) -> list[Array]:
    with OnnxRuntimeEngine("onnxruntime").build(model, EngineOptions()) as engine:
        return list(engine.infer(images).values())
