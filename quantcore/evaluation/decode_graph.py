"""Draws the decoding into an ONNX graph, so that a deployed engine returns boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from quantcore.errors import ModelError
from quantcore.evaluation.decode import DECODED, cells
from quantcore.ir.edits import add_constant, copied, opset_of
from quantcore.ir.model import Decoding

_PREFIX = "decode"


def append_decode(
    proto: onnx.ModelProto, decoding: Decoding, size: tuple[int, int]
) -> onnx.ModelProto:
    """Copies a graph and decodes its heads inside it, as `quantcore.evaluation.decode` does.

    The nodes start at the head tensors, so float and Q/DQ graphs are treated alike; the batch
    stays dynamic where it was.

    Args:
        proto: A graph that ends in the raw heads.
        decoding: The model's.
        size: (height, width) of the network input in pixels.

    Returns:
        A graph with one output `detections`, B x N x (5+C); it needs no further decoding.

    Raises:
        ModelError: The outputs do not fit the decoding, or the graph's opset is below 13.
    """
    drawn = copied(proto)
    heads = [output.name for output in drawn.graph.output]
    if decoding.kind == "none" and heads == [DECODED]:
        return drawn
    _check(drawn, decoding)
    pen = _Pen(drawn.graph)
    if decoding.kind == "none":
        pen.add("Identity", [heads[0]], "identity", DECODED)
    else:
        _draw(pen, heads, decoding, size)
    batch = proto.graph.output[0].type.tensor_type.shape.dim
    dynamic = not batch or not batch[0].HasField("dim_value")
    first = "batch" if dynamic else batch[0].dim_value
    del drawn.graph.output[:]
    drawn.graph.output.append(
        helper.make_tensor_value_info(DECODED, TensorProto.FLOAT, [first, None, None])
    )
    return drawn


class _Pen:
    """Appends nodes and constants under one prefix."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph

    def add(
        self, op: str, inputs: Sequence[str], name: str, output: str = "", **attributes: Any
    ) -> str:
        """One node; returns the name of what it writes."""
        output = output or f"{_PREFIX}/{name}:out"
        node = helper.make_node(op, list(inputs), [output], f"{_PREFIX}/{name}", **attributes)
        self._graph.node.append(node)
        return output

    def constant(self, name: str, values: npt.ArrayLike, kind: type[np.generic]) -> str:
        """One initializer; returns its name."""
        name = f"{_PREFIX}/{name}"
        array = np.ascontiguousarray(values, dtype=kind)
        return add_constant(self._graph, name, array)

    def columns(self, rows: str, name: str, first: int, last: int) -> str:
        """A slice of the last axis."""
        ends = [
            self.constant(f"{name}.{end}", [value], np.int64)
            for end, value in (("start", first), ("end", last), ("axis", -1))
        ]
        return self.add("Slice", [rows, *ends], name)


def _draw(pen: _Pen, heads: Sequence[str], decoding: Decoding, size: tuple[int, int]) -> None:
    table = cells(decoding, size)
    anchored = decoding.kind == "anchors"
    rows = _rows(pen, heads, decoding, size) if anchored else heads[0]
    if anchored:
        rows = pen.add("Sigmoid", [rows], "sigmoid")
    center = pen.columns(rows, "center", 0, 2)
    gain = pen.constant("gain", table.gain, np.float32)
    origin = pen.constant("origin", table.origin, np.float32)
    center = pen.add("Add", [pen.add("Mul", [center, gain], "scaled"), origin], "moved")
    extent = pen.columns(rows, "extent", 2, 4)
    if anchored:
        extent = pen.add("Mul", [extent, pen.constant("two", 2, np.float32)], "doubled")
        extent = pen.add("Mul", [extent, extent], "squared")
    else:
        extent = pen.add("Exp", [extent], "exp")
    base = pen.constant("base", table.base, np.float32)
    extent = pen.add("Mul", [extent, base], "sized")
    scores = pen.columns(rows, "scores", 4, np.iinfo(np.int64).max)
    pen.add("Concat", [center, extent, scores], "concat", DECODED, axis=-1)


def _rows(pen: _Pen, heads: Sequence[str], decoding: Decoding, size: tuple[int, int]) -> str:
    """B x (A*K) x H x W heads as one B x N x K; 0 copies the batch, -1 leaves K open."""
    levels = []
    parts = zip(heads, decoding.strides, decoding.anchors, strict=True)
    for level, (head, stride, anchors) in enumerate(parts):
        count, area = len(anchors), (size[0] // stride) * (size[1] // stride)
        shape = pen.constant(f"split.{level}.shape", [0, count, -1, area], np.int64)
        split = pen.add("Reshape", [head, shape], f"split.{level}")
        moved = pen.add("Transpose", [split], f"last.{level}", perm=[0, 1, 3, 2])
        # Not (0, N, -1): K has to be inferred, and Reshape counts 0 by position.
        shape = pen.constant(f"rows.{level}.shape", [0, count * area, -1], np.int64)
        levels.append(pen.add("Reshape", [moved, shape], f"rows.{level}"))
    return pen.add("Concat", levels, "levels", axis=1)


def _check(proto: onnx.ModelProto, decoding: Decoding) -> None:
    opset = opset_of(proto)
    if opset < 13:
        raise ModelError(f"decoding in the graph needs opset 13 or later, the graph has {opset}")
    heads = [output.name for output in proto.graph.output]
    wanted = len(decoding.strides) if decoding.kind == "anchors" else 1
    if len(heads) != wanted:
        raise ModelError(f"decoding: needs {wanted} outputs, the graph has {', '.join(heads)}")
    taken = {name for node in proto.graph.node for name in (node.name, *node.output)}
    if DECODED in taken or any(name.startswith(f"{_PREFIX}/") for name in taken):
        raise ModelError(f"the graph already holds {DECODED!r} or {_PREFIX}/ nodes: draw them once")
