"""Opens an ONNX file and checks that it is a float detector's graph."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import TensorProto

from quantcore.errors import CheckpointError
from quantcore.ir.edits import opset_of
from quantcore_onnx.float32 import to_float32

#: Part of the name of every operator that takes or gives integers for real numbers.
_QUANTIZED = re.compile(r"Quantize|^QLinear|Integer|^QGemm|^QAttention|^QEmbed|NBits$|Bnb4$")
_CONTROL_FLOW = ("If", "Loop", "Scan")

#: Below this QuantizeLinear has no axis, so weights could not be quantized per channel.
LOWEST_OPSET = 13
TARGET_OPSET = 17
#: The IR version that came with opset 17.
IR_VERSION = 8


def read(path: Path) -> onnx.ModelProto:
    """Reads a float ONNX model as it is.

    Raises:
        CheckpointError: The file is missing or damaged, quantized already, or holds what no
            backend takes.
    """
    if not path.is_file():
        reason = "is a directory" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {reason}; give an ONNX file")
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own classes derive from Exception alone
        raise CheckpointError(f"{path}: not a readable ONNX file ({one_line(error)})") from None
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")  # where the numbers were is no part of the model
    if not model.graph.node:
        raise CheckpointError(f"{path}: holds no graph; give an ONNX file")
    model = _inlined(model, path)
    _check_nodes(model, path)
    _check_whole(model, path)
    return model


def prepare(model: onnx.ModelProto, path: Path) -> None:
    """Makes of a model one in FP32 with one image input, in place.

    Args:
        model: What `read` gave.
        path: The file, for error messages.

    Raises:
        CheckpointError: The input is not one batch of FP32 images with three channels.
    """
    _drop_constant_inputs(model)
    to_float32(model)
    check_input(model, path)


def _check_whole(model: onnx.ModelProto, path: Path) -> None:
    """Raises CheckpointError where onnx itself refuses a model.

    It insists on shapes of outputs and others, which plain exports leave out and nobody needs.
    """
    infos = [i.type.tensor_type for i in (*model.graph.output, *model.graph.value_info)]
    bare = [kind for kind in infos if not kind.HasField("shape")]
    for kind in bare:
        kind.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise invalid(error, path) from None
    for kind in bare:
        kind.ClearField("shape")


def _inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model without functions of its own, which some exporters write for modules."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises RuntimeError and others of its own
        raise invalid(error, path) from None


def _check_nodes(model: onnx.ModelProto, path: Path) -> None:
    for node in model.graph.node:
        op = node.op_type
        if _QUANTIZED.search(op):
            raise CheckpointError(
                f"{path}: is quantized already (node {node.name or op} is a {op}); give the float "
                "model that it was made from"
            )
        if op in _CONTROL_FLOW or node.domain not in ("", "ai.onnx"):
            where = f" of {node.domain}" if node.domain else ""
            raise CheckpointError(
                f"{path}: node {node.name or op} is a {op}{where}, which is not supported; "
                "export without NMS and control flow"
            )


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Old files list their weights among the inputs."""
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, IR_VERSION)


def check_input(model: onnx.ModelProto, path: Path) -> None:
    """Raises CheckpointError where the input is not one batch of FP32 images."""
    inputs = model.graph.input
    if len(inputs) != 1:
        raise CheckpointError(f"{path}: needs one input, the images; has {len(inputs)}")
    kind = inputs[0].type.tensor_type
    channels = kind.shape.dim[1].dim_value if len(kind.shape.dim) == 4 else None
    if channels not in (0, 3) or kind.elem_type != TensorProto.FLOAT:
        raise CheckpointError(
            f"{path}: input {inputs[0].name} must be FP32 images, batch x 3 x height x width; "
            "export it so"
        )
    batch = kind.shape.dim[0].dim_value
    if batch > 1:
        raise CheckpointError(
            f"{path}: its batch size is fixed at {batch}; export it with a dynamic batch, or 1"
        )


def raise_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model at opset 13 or later; newer ones stay, as a conversion can only do harm.

    Args:
        model: With all shapes inferred: without them Softmax comes out in a roundabout way.
        path: The file, for error messages.

    Raises:
        CheckpointError: It cannot be converted.
    """
    opset = opset_of(model)
    if opset >= LOWEST_OPSET:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, TARGET_OPSET)
    except Exception as error:  # the converter raises RuntimeError and others of its own
        raise CheckpointError(
            f"{path}: cannot be raised from opset {opset} to {TARGET_OPSET} ({one_line(error)}); "
            f"export it with opset {LOWEST_OPSET} or later"
        ) from None
    converted.ir_version = max(converted.ir_version, IR_VERSION)
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def invalid(error: Exception, path: Path) -> CheckpointError:
    """The error for a graph that onnx itself refuses."""
    return CheckpointError(f"{path}: not a valid ONNX graph ({one_line(error)})")


def one_line(error: Exception) -> str:
    """An error's text without line breaks, and not too long."""
    return " ".join(str(error).split())[:300]
