"""What a table keeps of a calibration, so that observers can be applied again without the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.errors import TableError
from quantcore.ir.edits import copied
from quantcore.ir.model import FloatGraph
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
        """Zeros in the constants' shapes, which take no memory."""
        zero = np.float32(0)
        return {i.name: np.broadcast_to(zero, tuple(i.dims)) for i in self.proto.graph.initializer}


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
        for constant in model.proto.graph.initializer:
            kind = constant.data_type
            proto.graph.initializer.add(name=constant.name, dims=constant.dims, data_type=kind)
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
            _ = (
                found.initializers,
                found.layers,
            )  # what is lazy is read here, where it can be refused
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
