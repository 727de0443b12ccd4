"""Writing FP16 into a graph: which nodes can take it, their constants, and the Casts between."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from quantcore.ir.edits import (
    Names,
    copied,
    element_types,
    opset_of,
    set_constants,
    set_nodes,
)

FP32, FP16 = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
PAIR = ("QuantizeLinear", "DequantizeLinear")
_SUFFIX = {FP32: "fp32", FP16: "fp16"}


def narrow(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    """Rounded to FP16, to infinity where that is the nearest."""
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float16] = np.asarray(values).astype(np.float16)
    return found


def flexible(node: onnx.NodeProto, opset: int) -> tuple[frozenset[int], frozenset[int]]:
    """Positions of the inputs and outputs whose type may be FP16, by the operator's schema.

    An output is flexible where an input binds its type; that of a Cast or a Constant is not.
    """
    if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type, opset):
        return frozenset(), frozenset()
    schema = defs.get_schema(node.op_type, opset, "")
    free = {
        c.type_param_str
        for c in schema.type_constraints
        if {"tensor(float16)", "tensor(float)"} <= set(c.allowed_type_strs)
    }
    # The last formal parameter stands for all that follow where it is variadic.
    reads, writes = [p.type_str for p in schema.inputs], [p.type_str for p in schema.outputs]
    read = [reads[min(i, len(reads) - 1)] for i in range(len(node.input))]
    written = [writes[min(i, len(writes) - 1)] for i in range(len(node.output))]
    bound = {name for name, tensor in zip(read, node.input, strict=True) if tensor} & free
    return (
        frozenset(i for i, name in enumerate(read) if name in bound),
        frozenset(i for i, name in enumerate(written) if name in bound),
    )


def touches_floats(node: onnx.NodeProto, types: Mapping[str, int]) -> bool:
    """Whether a node reads or writes an FP32 tensor."""
    return any(types.get(name) == FP32 for name in (*node.input, *node.output))


def takes_fp16(node: onnx.NodeProto, types: Mapping[str, int], opset: int) -> bool:
    """Whether a node can compute in FP16: all that it writes as FP32 follows what it reads."""
    inputs, outputs = flexible(node, opset)
    reads = any(types.get(name) == FP32 for i, name in enumerate(node.input) if i in inputs)
    rigid = any(types.get(name) == FP32 for i, name in enumerate(node.output) if i not in outputs)
    return reads and not rigid


class Fp16Writer:
    """Rewrites a graph in place, node by node in its order.

    Args:
        proto: A graph in FP32, at an opset where FP16 scales exist.
        fp32: Names of the nodes that stay FP32.
    """

    def __init__(self, proto: onnx.ModelProto, fp32: Collection[str]) -> None:
        self._graph = proto.graph
        self._opset = opset_of(proto)
        self._types = element_types(proto)
        self._constants = {i.name: i for i in proto.graph.initializer}
        self._outputs = {o.name for o in proto.graph.output}
        self._new = Names.of(proto.graph).fresh
        self._fp16 = self._wanted(frozenset(fp32))
        self._actual = {i.name: FP32 for i in proto.graph.input}
        self._renamed: dict[str, str] = {}  # what an output is called before its Cast to FP32
        self._made: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> None:
        """Types every node and puts the Casts between."""
        self._round_scales()
        for node in self._graph.node:
            self._type(copied(node))
        for name in self._renamed:
            self._cast(name, FP32)
        set_nodes(self._graph, self._nodes)
        del self._graph.value_info[:]  # stale, and the checker infers it
        set_constants(self._graph, self._constants.values())

    def _wanted(self, fp32: frozenset[str]) -> frozenset[str]:
        """Names of the nodes that compute in FP16; a DQ does where a reader of it does."""
        plain = [n for n in self._graph.node if n.name not in fp32]
        found = {
            n.name
            for n in plain
            if n.op_type not in PAIR and takes_fp16(n, self._types, self._opset)
        }
        read = {name for n in self._graph.node if n.name in found for name in n.input}
        found.update(
            n.name for n in plain if n.op_type == "DequantizeLinear" and n.output[0] in read
        )
        # A Q has the type of what it reads, which is only known on the way; see _type.
        found.update(n.name for n in plain if n.op_type == "QuantizeLinear")
        return frozenset(found)

    def _round_scales(self) -> None:
        """One value for Q and DQ of a pair, also where one of them computes in FP32."""
        scales = {n.input[1] for n in self._graph.node if n.op_type in PAIR and self._is16(n)}
        for name in scales & self._constants.keys():
            values = numpy_helper.to_array(self._constants[name])
            rounded = narrow(values).astype(np.float32)
            self._constants[name] = numpy_helper.from_array(rounded, name)

    def _is16(self, node: onnx.NodeProto) -> bool:
        return node.name in self._fp16

    def _type(self, node: onnx.NodeProto) -> None:
        """Appends a node with its inputs in the type that it computes in."""
        half = self._is16(node)
        if node.op_type == "QuantizeLinear":
            half = half and self._actual.get(node.input[0]) == FP16
        inputs, outputs = flexible(node, self._opset) if half else (frozenset(), frozenset())
        for position, name in enumerate(node.input):
            if self._types.get(name) == FP32:
                node.input[position] = self._as(name, FP16 if position in inputs else FP32)
        for position, name in enumerate(node.output):
            if self._types.get(name) != FP32:
                continue
            self._actual[name] = FP16 if position in outputs else FP32
            if self._actual[name] == FP16 and name in self._outputs:
                self._renamed[name] = node.output[position] = self._new(f"{name}.fp16")
        self._nodes.append(node)

    def _as(self, name: str, kind: int) -> str:
        """The tensor in a type: itself, a constant written in it, or behind a Cast."""
        if name not in self._constants:
            return self._cast(name, kind)
        if kind == FP32:
            return name
        if (name, kind) not in self._made:
            made = self._made[name, kind] = self._new(f"{name}.fp16")
            values = narrow(numpy_helper.to_array(self._constants[name]))
            self._constants[made] = numpy_helper.from_array(values, made)
        return self._made[name, kind]

    def _cast(self, name: str, kind: int) -> str:
        if self._actual.get(name, FP32) == kind:
            return self._renamed.get(name, name)
        if (name, kind) not in self._made:
            label = f"{name}.{_SUFFIX[kind]}"
            made = name if name in self._renamed else self._new(label)
            source = self._renamed.get(name, name)
            cast = helper.make_node("Cast", [source], [made], self._new(f"{label}.cast"), to=kind)
            self._nodes.append(cast)
            self._made[name, kind] = made
        return self._made[name, kind]
