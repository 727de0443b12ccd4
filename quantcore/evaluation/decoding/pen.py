"""Draws nodes and constants of a decoding into an ONNX graph, all under one prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

PREFIX = "decode/"


class Pen:
    """Appends to a graph.

    Args:
        graph: Changed in place.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph

    def add(
        self, op: str, inputs: Sequence[str], name: str, output: str = "", **attributes: Any
    ) -> str:
        """One node; returns the name of what it writes."""
        output = output or f"{PREFIX}{name}:out"
        node = helper.make_node(op, list(inputs), [output], f"{PREFIX}{name}", **attributes)
        self._graph.node.append(node)
        return output

    def constant(self, name: str, values: npt.ArrayLike, kind: type[np.generic]) -> str:
        """One initializer; returns its name."""
        name = f"{PREFIX}{name}"
        array = np.ascontiguousarray(values, dtype=kind)
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def columns(self, rows: str, name: str, first: int, last: int) -> str:
        """A slice of the last axis."""
        ends = [
            self.constant(f"{name}.{end}", [value], np.int64)
            for end, value in (("start", first), ("end", last), ("axis", -1))
        ]
        return self.add("Slice", [rows, *ends], name)
