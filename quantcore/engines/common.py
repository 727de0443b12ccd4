"""What the engines share: naming ONNX nodes and saying errors in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx

#: Operators that carry the arithmetic of a network; a fused layer is named after the one in it.
HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "ConvInteger"})

#: What every engine calls its precisions, in the words of `EngineLayer`.
PRECISIONS: Mapping[str, str] = {
    "i8": "int8",
    "u8": "int8",
    "int8": "int8",
    "uint8": "int8",
    "f16": "fp16",
    "half": "fp16",
    "fp16": "fp16",
    "bf16": "bf16",
    "f32": "fp32",
    "float": "fp32",
    "fp32": "fp32",
}


def one_line(error: object) -> str:
    """A library's message as part of one of ours."""
    return " ".join(str(error).split())[:500]


def operators(proto: onnx.ModelProto) -> dict[str, str]:
    """Operator of every node by its name."""
    return {node.name: node.op_type for node in proto.graph.node}


def leading(nodes: Iterable[str], ops: Mapping[str, str]) -> str | None:
    """The node that a layer made of several is named after: the heavy one, else the first."""
    known = [node for node in nodes if node in ops]
    heavy = [node for node in known if ops[node] in HEAVY]
    return next(iter(heavy + known), None)


def names_of_nodes(proto: onnx.ModelProto) -> dict[str, str]:
    """Node by its own name and by the tensors that it writes."""
    outputs = {tensor: node.name for node in proto.graph.node for tensor in node.output}
    return outputs | {node.name: node.name for node in proto.graph.node}


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether an x86 processor adds products of bytes in 32 bits; None where that is not told."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, values = line.partition(":")
            if name.strip() == "flags":
                return not {"avx512_vnni", "avx_vnni"}.isdisjoint(values.split())
    return None
