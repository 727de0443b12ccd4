"""Writes a float ONNX graph node by node; every node is named after its module."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantcore.errors import CheckpointError
from quantcore.ir.model import Array

OPSET = 17
#: The IR version that came with opset 17; ONNX Runtime and TensorRT of that time read it.
IR_VERSION = 8
#: Beyond any detector; what is within them fits every number of a graph.
_MAX_STRIDE, _MAX_CHANNELS = 4096, 1 << 20


@dataclass(frozen=True)
class Value:
    """An activation while the graph is written.

    Attributes:
        name: Of the tensor.
        channels: Of the tensor.
        stride: Pixels of the image per cell, the same in both directions.
    """

    name: str
    channels: int
    stride: Fraction


class GraphBuilder:
    """A graph that grows by one layer a call.

    Attributes:
        image: The network input.
        max_stride: The coarsest stride so far; the image size must be a multiple of it.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._names: set[str] = set()
        self.image = Value("images", 3, Fraction(1))
        self.max_stride = Fraction(1)

    def conv(
        self,
        name: str,
        x: Value,
        weight: Array,
        bias: Array,
        stride: int,
        padding: int,
        groups: int,
    ) -> Value:
        """A convolution with bias; weight is (out, in / groups, k, k).

        Raises:
            CheckpointError: The weight does not fit its input.
        """
        self._check(name, kernel=min(weight.shape), stride=stride, groups=groups)
        out, inputs = weight.shape[:2]
        if inputs * groups != x.channels or out % groups or bias.shape != (out,):
            raise CheckpointError(
                f"{self._origin}: {name} has weights of shape {weight.shape} for an input of "
                f"{x.channels} channels; the layer list and the weights do not belong together"
            )
        inputs_of_node = [
            x.name,
            self._constant(f"{name}.weight", weight),
            self._constant(f"{name}.bias", bias),
        ]
        output = self._node(
            "Conv",
            name,
            inputs_of_node,
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=[padding] * 4,
            dilations=[1, 1],
            group=groups,
        )
        return self._coarser(output, out, x.stride * stride)

    def silu(self, name: str, x: Value) -> Value:
        """`x * sigmoid(x)`, as the two nodes that opset 17 has."""
        gate = self._node("Sigmoid", f"{name}.sigmoid", [x.name])
        return Value(self._node("Mul", f"{name}.mul", [x.name, gate]), x.channels, x.stride)

    def leaky_relu(self, name: str, x: Value, slope: float) -> Value:
        """`x` where positive, `slope * x` elsewhere."""
        return Value(self._node("LeakyRelu", name, [x.name], alpha=slope), x.channels, x.stride)

    def relu(self, name: str, x: Value) -> Value:
        """`max(x, 0)`."""
        return Value(self._node("Relu", name, [x.name]), x.channels, x.stride)

    def add(self, name: str, x: Value, y: Value) -> Value:
        """The sum of two tensors of one shape."""
        return Value(self._node("Add", name, [x.name, y.name]), x.channels, x.stride)

    def concat(self, name: str, values: list[Value]) -> Value:
        """Joins tensors of one resolution along their channels.

        Raises:
            CheckpointError: The resolutions differ.
        """
        if len({v.stride for v in values}) != 1:
            raise CheckpointError(
                f"{self._origin}: {name} joins different resolutions; the layer list is malformed"
            )
        channels = sum(v.channels for v in values)
        if channels > _MAX_CHANNELS:
            raise CheckpointError(f"{self._origin}: {name} joins {channels} channels, too many")
        output = self._node("Concat", name, [v.name for v in values], axis=1)
        return Value(output, channels, values[0].stride)

    def max_pool(self, name: str, x: Value, kernel: int, stride: int, padding: int) -> Value:
        """A square max-pooling."""
        self._check(name, kernel=kernel, stride=stride)
        output = self._node(
            "MaxPool",
            name,
            [x.name],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[padding] * 4,
        )
        return self._coarser(output, x.channels, x.stride * stride)

    def upsample(self, name: str, x: Value, factor: int) -> Value:
        """Nearest-neighbour upsampling; asymmetric and floor is what torch and TensorRT do."""
        scales = self._constant(f"{name}.scales", np.array([1, 1, factor, factor], np.float32))
        output = self._node(
            "Resize",
            name,
            [x.name, "", scales],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        return self._coarser(output, x.channels, x.stride / factor)

    def every_second(self, name: str, x: Value, row: int, column: int) -> Value:
        """Every second row and column, from the given ones on."""
        bounds = {
            "starts": [row, column],
            "ends": [np.iinfo(np.int64).max] * 2,
            "axes": [2, 3],
            "steps": [2, 2],
        }
        constants = [
            self._constant(f"{name}.{key}", np.array(value, np.int64))
            for key, value in bounds.items()
        ]
        return self._coarser(
            self._node("Slice", name, [x.name, *constants]), x.channels, x.stride * 2
        )

    def finish(self, outputs: list[Value], size: tuple[int, int]) -> onnx.ModelProto:
        """The checked model with all shapes inferred; the batch dimension is dynamic.

        Args:
            outputs: The raw heads.
            size: (height, width) of the network input in pixels.

        Raises:
            CheckpointError: The layers do not fit together.
        """
        graph = helper.make_graph(
            self._nodes,
            "detector",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, *size])],
            [
                helper.make_tensor_value_info(
                    head.name,
                    TensorProto.FLOAT,
                    ["batch", head.channels, *(int(side / head.stride) for side in size)],
                )
                for head in outputs
            ],
            list(self._constants.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="quantcore-yolo",
        )
        try:
            model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
            onnx.checker.check_model(model, full_check=True)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{self._origin}: its layer list makes no valid graph ({reason})"
            ) from None
        return model

    def _check(self, name: str, **numbers: int) -> None:
        """Raises CheckpointError where one of the numbers is below 1."""
        for what, number in numbers.items():
            if number < 1:
                raise CheckpointError(f"{self._origin}: {name} has {what} {number}; 1 is the least")

    def _coarser(self, name: str, channels: int, stride: Fraction) -> Value:
        if max(stride.numerator, stride.denominator) > _MAX_STRIDE:
            raise CheckpointError(f"{self._origin}: {name} has a stride that no detector has")
        self.max_stride = max(self.max_stride, stride)
        return Value(name, channels, stride)

    def _node(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node; a module that runs again gets a number behind its name."""
        unique, runs = name, 0
        while unique in self._names:
            runs += 1
            unique = f"{name}_{runs}"
        self._names.add(unique)
        output = f"{unique}.out"
        self._nodes.append(helper.make_node(op, inputs, [output], unique, **attributes))
        return output

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name
