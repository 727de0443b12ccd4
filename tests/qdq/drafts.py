"""Small Q/DQ graphs, drawn node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INT8 = np.int8
ZERO = INT8(0)


class Draft:
    """A graph being drawn: x, 4 x 8 x 8 and a batch, to y."""

    def __init__(self, opset: int = 17, batch: int | str = 1) -> None:
        self.opset = opset
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], f"n.{output}", **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        self.constants[name] = np.asarray(values)
        return name

    def pair(self, x: str, scale: Any = 0.1, zero: Any = ZERO, **attributes: Any) -> str:
        names = [self.constant(f"{x}.s", np.asarray(scale, np.float32))]
        if zero is not None:
            shape = np.broadcast_to(zero, np.shape(scale))
            names.append(self.constant(f"{x}.z", np.ascontiguousarray(shape)))
        self.add("QuantizeLinear", [x, *names], f"{x}.q", **attributes)
        return self.add("DequantizeLinear", [f"{x}.q", *names], f"{x}.d", **attributes)

    def weight(self, name: str, shape: tuple[int, ...], axis: int | None = 0) -> str:
        count = () if axis is None else (shape[axis],)
        codes = np.arange(np.prod(shape)).reshape(shape) * 7 % 19 - 9
        self.constant(f"{name}.q", codes.astype(INT8))
        self.constant(f"{name}.s", np.full(count, 0.5, np.float32))
        self.constant(f"{name}.z", np.zeros(count, INT8))
        extra = {} if axis is None else {"axis": axis}
        inputs = [f"{name}.{part}" for part in "qsz"]
        return self.add("DequantizeLinear", inputs, f"{name}.d", **extra)

    def conv(self, x: str, output: str, **how: Any) -> str:
        return self.add("Conv", [x, self.weight(f"{output}.w", (4, 4, 1, 1), **how)], output)

    def done(self, outputs: str = "y") -> onnx.ModelProto:
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "draft",
            [info("x", TensorProto.FLOAT, [self.batch, 4, 8, 8])],
            [info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(v, n) for n, v in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)
