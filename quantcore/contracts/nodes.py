"""Running the float graph node by node in any framework: what every backend shares.

A backend gives one callable for each node; reading attributes, the order, freeing dead tensors and
tapping observed tensors are the same everywhere and live here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.errors import BackendError
from quantcore.ir.edits import attributes, opset_of
from quantcore.ir.model import FloatModel

T = TypeVar("T")


@dataclass(frozen=True)
class Node:
    """An ONNX node with its attributes and constants at hand.

    Attributes:
        name: Node name, the layer's name.
        op: ONNX operator.
        attributes: By name, as Python values.
        inputs: Tensor names; empty for an omitted optional input.
        outputs: Tensor names.
        constants: The inputs that are initializers, by position.
        opset: Version of the operator set that the node is of.
        arithmetic: What float32 means here: `float32` or `float64`.
    """

    name: str
    op: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[int, npt.NDArray[np.generic]]
    opset: int = 17
    arithmetic: str = "float32"

    @property
    def activations(self) -> tuple[str, ...]:
        """The inputs that are computed, in order."""
        return tuple(i for p, i in enumerate(self.inputs) if i and p not in self.constants)

    def constant(self, position: int) -> npt.NDArray[np.generic] | None:
        """A constant input, or None where it is omitted.

        Raises:
            BackendError: The input is computed, which no backend can materialise.
        """
        if position >= len(self.inputs) or not self.inputs[position]:
            return None
        if position not in self.constants:
            raise self.refused(f"input {position} is computed, not constant")
        return self.constants[position]

    def operands(self, convert: Callable[[npt.NDArray[np.generic]], T]) -> Callable[..., list[T]]:
        """A function that puts converted constants among the computed inputs, in order.

        An omitted input that others follow is None.
        """
        fixed: dict[int, Any] = {p: convert(c) for p, c in self.constants.items()}
        fixed |= {p: None for p, name in enumerate(self.inputs) if not name}
        positions = range(len(self.inputs))

        def weave(*computed: T) -> list[T]:
            rest = iter(computed)
            return [fixed[p] if p in fixed else next(rest) for p in positions]

        return weave

    def integers(self, position: int) -> tuple[int, ...] | None:
        """A constant input of whole numbers; None where it is omitted.

        Raises:
            BackendError: The input is computed.
        """
        values = self.constant(position)
        return None if values is None else tuple(int(v) for v in values.reshape(-1))

    def needed(self, position: int) -> tuple[int, ...]:
        """As `integers`; raises BackendError where the input is omitted as well."""
        values = self.integers(position)
        if values is None:
            raise self.refused(f"needs constant input {position}")
        return values

    def refused(self, why: str) -> BackendError:
        """The error for a node that cannot be materialised."""
        return BackendError(f"layer {self.name!r} ({self.op}): cannot be materialised: {why}")

    # Geometry of the windowed ops, checked once for every framework.

    def pads(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of a 2-d window op."""
        if self.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise self.refused("auto_pad is not supported; export with explicit pads")
        top, left, bottom, right = self.attributes.get("pads", (0, 0, 0, 0))
        return top, left, bottom, right

    def pair(self, name: str, default: int = 1) -> tuple[int, int]:
        """A (height, width) attribute such as strides."""
        values = self.attributes.get(name, (default, default))
        if len(values) != 2:
            raise self.refused(f"{name} {tuple(values)} is not two-dimensional")
        return int(values[0]), int(values[1])

    def begins(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns of windows that begin on the picture or in front of it.

        With `ceil_mode` there are no others in ONNX; frameworks let some begin in the padding
        behind it.
        """
        top, left, _, _ = self.pads()
        down, across = self.pair("strides")
        return slice(-(-(height + top) // down)), slice(-(-(width + left) // across))

    # What older opsets say in an attribute and newer ones in an input.

    def axes(self, position: int = 1) -> tuple[int, ...] | None:
        """The axes of a reduction, Squeeze or Unsqueeze, as they are written; None for all."""
        if "axes" in self.attributes:
            return tuple(int(a) for a in self.attributes["axes"])
        return self.integers(position)

    def reduced(self, rank: int) -> tuple[int, ...]:
        """The axes that a reduction of a tensor of some rank runs over, none negative."""
        axes = self.axes()
        if not axes:
            return () if self.attributes.get("noop_with_empty_axes", 0) else tuple(range(rank))
        return tuple(sorted(a % rank for a in axes))

    def split_sizes(self, length: int) -> list[int]:
        """How long the parts are that Split makes of an axis; the last may be the smaller one."""
        sizes = self.attributes.get("split") or self.integers(1)
        if sizes:
            return [int(size) for size in sizes]
        parts = len(self.outputs)
        size = -(-length // parts)
        return [size] * (parts - 1) + [length - size * (parts - 1)]

    def slices(self, shape: Sequence[int]) -> list[slice]:
        """What Slice takes of each axis of a tensor, its ends within the axis.

        Raises:
            BackendError: A step is negative.
        """
        starts, ends = self.needed(1), self.needed(2)
        axes = self.integers(3) or tuple(range(len(starts)))
        steps = self.integers(4) or (1,) * len(starts)
        if min(steps) < 1:
            raise self.refused("negative steps are not supported")
        taken = [slice(None)] * len(shape)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            taken[axis] = slice(*slice(start, end, step).indices(shape[axis]))
        return taken

    def paddings(self, rank: int) -> list[tuple[int, int]]:
        """What Pad adds in front of and behind each axis of a tensor; negative numbers cut."""
        pads = self.needed(1)
        axes = self.integers(3) or tuple(range(rank))
        added = [(0, 0)] * rank
        for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
            added[axis] = (before, after)
        return added


@dataclass(frozen=True)
class Tap(Generic[T]):
    """Something done to a tensor as it appears: watched, or replaced for some consumers.

    Attributes:
        function: Returns what the consumers read instead.
        consumers: Names of the nodes that read the returned tensor; others read the original.
    """

    function: Callable[[T], T]
    consumers: frozenset[str]


class GraphRunner(Generic[T]):
    """The float graph in one framework's tensors.

    Args:
        model: The float model.
        build: Gives the callable of a node; it takes the node's computed inputs and returns its
            output, or a sequence where the node has several.
        arithmetic: `float32` or `float64`: what the constants are that the nodes are built of.
    """

    def __init__(
        self,
        model: FloatModel,
        build: Callable[[Node], Callable[..., Any]],
        arithmetic: str = "float32",
    ) -> None:
        self._outputs = model.output_names
        self._input = model.input_name
        self._nodes = nodes(model, arithmetic)
        self._calls = [build(node) for node in self._nodes]
        # What may be freed after each node, so that memory holds only what is still to be read.
        last = {name: i for i, node in enumerate(self._nodes) for name in node.activations}
        self._dead: list[list[str]] = [[] for _ in self._nodes]
        for name, index in last.items():
            if name not in self._outputs:
                self._dead[index].append(name)

    def run(
        self,
        images: T,
        taps: Mapping[str, Tap[T]] | None = None,
        replace: Mapping[str, Callable[[T], T]] | None = None,
    ) -> list[T]:
        """The heads for a batch.

        Args:
            images: The network input, B x 3 x H x W.
            taps: By tensor name; applied as the tensor appears.
            replace: By tensor name; applied before the tap, and for every consumer.
        """
        taps, replace = taps or {}, replace or {}
        values: dict[str, T] = {}
        tapped: dict[str, T] = {}

        def put(name: str, value: T) -> None:
            if name in replace:
                value = replace[name](value)
            values[name] = value
            if name in taps:
                tapped[name] = taps[name].function(value)

        put(self._input, images)
        for node, call, dead in zip(self._nodes, self._calls, self._dead, strict=True):
            arguments = [
                tapped[name] if name in taps and node.name in taps[name].consumers else values[name]
                for name in node.activations
            ]
            result = call(*arguments)
            results: Sequence[T] = (result,) if len(node.outputs) == 1 else result
            for name, value in zip(node.outputs, results, strict=True):
                put(name, value)
            for name in dead:
                del values[name]
                tapped.pop(name, None)
        return [values[name] for name in self._outputs]


def nodes(model: FloatModel, arithmetic: str = "float32") -> list[Node]:
    """The nodes of a float graph in order, float32 constants in the wanted arithmetic."""
    constants = {
        name: values.astype(arithmetic, copy=False) if values.dtype == np.float32 else values
        for name, values in model.initializers.items()
    }
    opset = opset_of(model.proto)
    return [_node(proto, constants, opset, arithmetic) for proto in model.proto.graph.node]


def _node(
    proto: onnx.NodeProto,
    initializers: Mapping[str, npt.NDArray[np.generic]],
    opset: int,
    arithmetic: str,
) -> Node:
    constants = {p: initializers[i] for p, i in enumerate(proto.input) if i in initializers}
    return Node(
        proto.name,
        proto.op_type,
        attributes(proto),
        tuple(proto.input),
        tuple(proto.output),
        constants,
        opset,
        arithmetic,
    )
