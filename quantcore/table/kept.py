"""What a table keeps of a calibration, so that observers can be applied again without the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from quantcore.errors import TableError
from quantcore.ir.edits import copied, element_types
from quantcore.ir.model import FLOATS, FloatGraph
from quantcore.showing import shown
from quantcore.table.packing import pack, unpack
from quantcore.table.statistics import Statistics

FORMAT = "quantcore.histograms/1"
#: More than the nodes of any detector take; bounds what a table can make this unpack.
_MOST_BYTES = 1 << 26


class Outline(FloatGraph):
    """A float graph without the values of its constants: enough to plan on, not to compute with."""

    @cached_property
    def initializers(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """Zeros in the constants' shapes, which take no memory, save for what planning reads."""
        zero = np.float32(0)
        return {
            i.name: numpy_helper.to_array(i)
            if i.HasField("raw_data")
            else np.broadcast_to(zero, tuple(i.dims))
            for i in self.proto.graph.initializer
        }

    @cached_property
    def not_floats(self) -> frozenset[str]:
        """As of the float graph itself, whose types were kept where they are no floats."""
        graph = self.proto.graph
        kinds = {i.name: i.type.tensor_type.elem_type for i in graph.value_info}
        kinds.update({i.name: i.data_type for i in graph.initializer})
        return frozenset(name for name, kind in kinds.items() if kind not in FLOATS)


@dataclass(frozen=True)
class KeptHistograms:
    """Statistics of every activation that was observed, and the graph they belong to.

    Attributes:
        graph: The float graph without the values of its constants, serialized: from it and a policy
            follow the sites, as they would from the model itself.
        tensors: By activation: one, or one for each channel.
    """

    graph: bytes
    tensors: Mapping[str, tuple[Statistics, ...]]

    @classmethod
    def of(cls, model: FloatGraph, tensors: Mapping[str, tuple[Statistics, ...]]) -> KeptHistograms:
        """Keeps statistics of a model's activations; what needs no data is left out."""
        proto = copied(model.proto)
        del proto.graph.value_info[:]
        del proto.graph.initializer[:]
        types = element_types(model.proto)
        constants = {constant.name for constant in model.proto.graph.initializer}
        for name in sorted(model.not_floats - constants):
            proto.graph.value_info.append(helper.make_tensor_value_info(name, types[name], None))
        fixed = {n.input[1] for n in proto.graph.node if n.name in model.projections}
        for constant in model.proto.graph.initializer:
            kept = proto.graph.initializer.add(name=constant.name, dims=constant.dims)
            kept.data_type = constant.data_type
            if constant.name in fixed:
                kept.CopyFrom(numpy_helper.from_array(model.initializers[kept.name], kept.name))
        return cls(proto.SerializeToString(deterministic=True), tensors)

    def outline(self, name: str) -> Outline:
        """The model, for planning.

        Args:
            name: What to call it.

        Raises:
            TableError: The graph is unreadable.
        """
        try:
            proto = onnx.ModelProto.FromString(self.graph)
            found = Outline(name, proto)
            _ = found.initializers, found.layers  # lazy, and to be refused here
            return found
        except Exception as error:  # protobuf's own, or the model's: it is no graph of ours
            raise TableError(f"histograms: unreadable graph: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """JSON form; numbers read back bit for bit."""
        return {
            "format": FORMAT,
            "graph": pack(self.graph),
            "tensors": {n: [s.to_dict() for s in seen] for n, seen in self.tensors.items()},
        }

    @classmethod
    def from_dict(cls, data: Any) -> KeptHistograms:
        """Reads the JSON form.

        Raises:
            TableError: Another format, or malformed; names the tensor.
        """
        if not isinstance(data, Mapping) or data.get("format") != FORMAT:
            raise TableError(f"histograms: not of format {FORMAT}")
        entries = data.get("tensors")
        if not isinstance(entries, Mapping):
            raise TableError("histograms: `tensors` is missing")
        try:
            graph = unpack(data["graph"], _MOST_BYTES)
        except (KeyError, ValueError) as error:
            raise TableError(f"histograms: unreadable graph: {error}") from None
        found = cls(graph, {name: _read(name, entry) for name, entry in entries.items()})
        found.outline("table")
        return found


def _read(name: str, entry: Any) -> tuple[Statistics, ...]:
    try:
        if not isinstance(entry, list) or not entry:
            raise TableError("no statistics")
        return tuple(Statistics.from_dict(seen) for seen in entry)
    except TableError as error:
        raise TableError(f"histograms: tensor {shown(name)}: {error}") from None
