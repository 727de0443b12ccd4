"""Strongly typed mixed precision: FP16 written into a graph, beside INT8 where there are Q/DQ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, version_converter

from quantcore.errors import ModelError, PolicyError, UsageError
from quantcore.ir.edits import constants, copied, element_types, opset_of
from quantcore.ir.model import FloatModel
from quantcore.policy.matcher import TENSORS
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.fp16 import (
    PAIR,
    Fp16Writer,
    narrow,
    takes_fp16,
    touches_floats,
)
from quantcore.qdq.heads import box_arithmetic

#: What a run can ask for.
PRECISIONS = ("int8", "int8+fp16")
#: FP16 Q/DQ scales exist from here on (ONNX operators QuantizeLinear-19, DequantizeLinear-19).
LOWEST_OPSET = 19
#: Boxes in pixels of a large image, and squares of them, pass FP16's 65504 or its 11 bits. What a
#: network draws itself is found by `box_arithmetic`.
_DECODE = "decode/"
#: A scale may lose this much in FP16: at the last code, 127, that is a quarter of a step.
_SCALE_TOLERANCE = 2.0**-9


@dataclass(frozen=True)
class TypedGraph:
    """A strongly typed graph.

    Attributes:
        proto: The graph; its inputs and outputs are FP32.
        kept: Nodes that stayed FP32 unasked, and why.
    """

    proto: onnx.ModelProto
    kept: Mapping[str, str]


def int8_fp16(proto: onnx.ModelProto, keep_fp32: Iterable[str] = ()) -> onnx.ModelProto:
    """A graph, float or with Q/DQ pairs, whose unquantized part computes in FP16.

    TensorRT from version 11 on, and TensorRT for RTX, build strongly typed networks only: what is
    to run in FP16 has to be FP16 in the graph (TensorRT documentation, Strongly Typed Networks).

    Args:
        proto: Left untouched.
        keep_fp32: Names of nodes that stay FP32, beside the decoding of detections.

    Raises:
        UsageError: A name is no node of the graph.
        ModelError: The graph cannot be brought to opset 19, or the result fails the ONNX checker.
    """
    return mixed(proto, keep_fp32).proto


def mixed(proto: onnx.ModelProto, keep_fp32: Iterable[str] = ()) -> TypedGraph:
    """As `int8_fp16`, with what had to stay FP32 and why.

    FP32 stay: nodes named so, the decoding, operators that have no FP16 form, nodes with a constant
    beyond FP16's range, and layers with a scale that FP16 cannot hold. Graph inputs and outputs
    stay FP32. Scales are rounded to FP16 once, so that Q and DQ of a pair have one value even where
    they compute in different types.
    """
    names = {node.name for node in proto.graph.node}
    asked = set(keep_fp32)
    if asked - names:
        raise UsageError(f"no such layer to keep in FP32: {', '.join(sorted(asked - names))}")
    typed = _raised(proto)
    asked |= {name for name in names if name.startswith(_DECODE)} | box_arithmetic(typed.graph)
    kept = _forced(typed, asked)
    Fp16Writer(typed, asked | kept.keys()).write()
    try:
        onnx.checker.check_model(typed, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the FP16 graph is invalid: {error}") from None
    return TypedGraph(typed, kept)


def with_precision(
    model: FloatModel, proto: onnx.ModelProto, policy: CalibrationPolicy, precision: str
) -> TypedGraph:
    """A graph of a model in the precision of a run, save where the policy's rules say otherwise.

    Args:
        model: Whose layers the rules name.
        proto: A graph of it, float or Q/DQ.
        policy: Its rules with `precision` decide, the first that matches a layer.
        precision: One of `PRECISIONS`.

    Raises:
        UsageError: An unknown precision.
    """
    check_precision(precision)
    default = "fp16" if precision == "int8+fp16" else "fp32"
    chosen = _chosen(model, proto, policy)
    if default == "fp32" and "fp16" not in chosen.values():
        return TypedGraph(proto, {})
    # Q and DQ nodes have the type of what they stand between.
    nodes = [n.name for n in proto.graph.node if n.op_type not in PAIR]
    return mixed(proto, [name for name in nodes if chosen.get(name, default) == "fp32"])


def check_precision(precision: str) -> None:
    """Raises UsageError for an unknown precision of a run."""
    if precision not in PRECISIONS:
        raise UsageError(f"--precision must be {' or '.join(PRECISIONS)}, not {precision!r}")


def _chosen(model: FloatModel, proto: onnx.ModelProto, policy: CalibrationPolicy) -> dict[str, str]:
    """The precision that a rule gives a node; a glob reaches the activations between layers too."""
    layers = {layer.name: layer for layer in model.layers}
    rules = [rule for rule in policy.layers if rule.precision is not None]
    for rule in rules:
        if rule.matcher.names == TENSORS:
            raise PolicyError(f"rule {rule.match!r}: a layer has a precision, a tensor has none")
    found = {}
    for node in proto.graph.node:
        for rule in rules:
            layer = layers.get(node.name)
            reached = layer is not None and rule.matcher.matches_layer(layer)
            if reached or rule.matcher.matches_name(node.name):
                found[node.name] = str(rule.precision)
                break
    return found


def _raised(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy at opset 19 or later; newer ones are left alone."""
    copy = copied(proto)
    opset = opset_of(copy)
    if opset < LOWEST_OPSET:
        try:
            copy = version_converter.convert_version(copy, LOWEST_OPSET)
        except Exception as error:  # the converter raises whatever its adapters do
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"cannot be raised from opset {opset} to {LOWEST_OPSET}, which FP16 scales need: "
                f"{reason}"
            ) from None
    copy.ir_version = max(copy.ir_version, 9)  # the IR version that came with opset 19
    return copy


def _forced(proto: onnx.ModelProto, asked: AbstractSet[str]) -> dict[str, str]:
    """Nodes that cannot be FP16, and why."""
    values = constants(proto.graph)
    types, opset = element_types(proto), opset_of(proto)
    found: dict[str, str] = {}
    for node in proto.graph.node:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise ModelError(f"node {node.name!r} ({node.op_type}): control flow stays untyped")
        if node.op_type in PAIR:
            scale = values.get(node.input[1])
            if scale is None or not _holds(scale):
                reason = f"FP16 cannot hold the scale {node.input[1]!r}"
                found.update(dict.fromkeys((node.name, *_readers(proto, node)), reason))
        elif not takes_fp16(node, types, opset):
            if touches_floats(node, types):
                found[node.name] = f"{node.op_type} has no FP16 form"
        else:
            wide = [i for i in node.input if i in values and _overflows(values[i])]
            if wide:
                found[node.name] = f"FP16 cannot hold the constant {wide[0]!r}"
    return {name: reason for name, reason in found.items() if name not in asked}


def _readers(proto: onnx.ModelProto, node: onnx.NodeProto) -> list[str]:
    """What reads a Q or DQ node: the DQ of the pair, and the layers behind it."""
    found = []
    reached = set(node.output)
    for reader in proto.graph.node:
        if not reached.isdisjoint(reader.input):
            found.append(reader.name)
            if reader.op_type == "DequantizeLinear":
                reached.update(reader.output)
    return found


def _holds(scale: npt.NDArray[np.generic]) -> bool:
    """Whether FP16 holds a scale well enough; subnormals may, zero and infinity do not."""
    wide = scale.astype(np.float64)
    with np.errstate(invalid="ignore"):
        lost = np.abs(narrow(wide).astype(np.float64) - wide)
    return bool((lost <= _SCALE_TOLERANCE * np.abs(wide)).all() and (wide > 0).all())


def _overflows(values: npt.NDArray[np.generic]) -> bool:
    if values.dtype != np.float32:
        return False
    return bool(not np.isfinite(narrow(values[np.isfinite(values)])).all())
