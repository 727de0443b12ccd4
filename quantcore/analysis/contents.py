"""What a Q/DQ graph of any tool holds, layer by layer, and how far it is from its float graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import EngineError
from quantcore.ir.edits import copied
from quantcore.ir.model import Array
from quantcore.qdq.qdq_graph import QdqGraph
from quantcore.results.contents import Coding, Layer

_PAIRS = ("QuantizeLinear", "DequantizeLinear", "Constant")

#: Operators whose second input is a weight.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: Smallest and largest of the codes that ONNX's pairs may have.
_LIMITS: Mapping[str, tuple[float, float]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "float8_e4m3fn": (-448, 448),
    "float8_e5m2": (-57344, 57344),
}

#: Changes the type or the name of a tensor and no value.
_SEEN_THROUGH = ("Cast", "Identity")


def contents(proto: onnx.ModelProto, errors: Mapping[str, float | None]) -> list[Layer]:
    """The nodes of a graph that compute, in its order.

    Args:
        proto: The graph.
        errors: SQNR by tensor, from `differences`; may be empty.
    """
    graph = QdqGraph(proto)
    found = []
    for node in proto.graph.node:
        if node.op_type in _PAIRS or not node.output:
            continue
        weighted = node.op_type in _WEIGHTED
        found.append(
            Layer(
                name=node.name or node.output[0],
                op=node.op_type,
                data=_coding(graph, node.input[0]) if node.input else None,
                weight=_coding(graph, node.input[1]) if weighted and len(node.input) > 1 else None,
                weighted=weighted,
                error_db=errors.get(node.output[0]),
            )
        )
    return found


def _coding(graph: QdqGraph, tensor: str) -> Coding | None:
    """How a tensor comes out of a DequantizeLinear; None where it does not."""
    node = graph.producers.get(tensor)
    while node is not None and node.op_type in _SEEN_THROUGH:
        node = graph.producers.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return None
    scale, zero = graph.scale(node), graph.zero_point(node)
    if scale is None:
        return None
    before = graph.producers.get(node.input[0])
    name = before.input[0] if before is not None and before.input else node.input[0]
    scales = np.asarray(scale, np.float64).reshape(-1)
    kind = np.dtype(np.int8 if zero is None else zero.dtype)
    zeros = np.zeros(1) if zero is None else np.asarray(zero, np.float64).reshape(-1)
    codes = str(kind)
    low, high = _LIMITS.get(codes, (np.nan, np.nan))
    return Coding(
        tensor=name,
        codes=codes,
        scales=scales.size,
        scale=(float(scales.min()), float(scales.max())),
        span=(float(((low - zeros) * scales).min()), float(((high - zeros) * scales).max())),
        symmetric=not zeros.any(),
    )


def differences(
    quantized: onnx.ModelProto, reference: onnx.ModelProto, batch: Array
) -> dict[str, float | None]:
    """SQNR in dB of every tensor that both graphs compute, by name; None where nothing differs.

    Args:
        quantized: The Q/DQ graph.
        reference: The float graph that it was made from, its tensors' names kept.
        batch: The network input.

    Raises:
        EngineError: A graph cannot be run, or the two have no tensor in common.
    """
    both = _computed(reference) & _computed(quantized)
    if not both:
        raise EngineError(
            "the two graphs have no tensor of the same name; give the float graph that the other "
            "one was made from"
        )
    mine, theirs = (_tensors(graph, both, batch) for graph in (quantized, reference))
    found: dict[str, float | None] = {}
    for name, value in theirs.items():
        if value.dtype == np.float32 and mine[name].shape == value.shape:
            found[name] = _sqnr(value.astype(np.float64), mine[name].astype(np.float64))
    return found


def _computed(proto: onnx.ModelProto) -> set[str]:
    nodes = (node for node in proto.graph.node if node.op_type not in _PAIRS)
    return {name for node in nodes for name in node.output if name}


def _tensors(
    proto: onnx.ModelProto, names: set[str], batch: Array
) -> dict[str, npt.NDArray[np.generic]]:
    shown = copied(proto)
    there = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - there))
    plugin = registry.load_engine(REFERENCE_ENGINE)
    with plugin.build(shown, EngineOptions(exact=True)) as engine:
        found = engine.infer(batch)
    return {name: np.asarray(found[name]) for name in names}


def _sqnr(signal: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float | None:
    noise = float(np.square(signal - other).sum())
    power = float(np.square(signal).sum())
    return None if noise == 0 or power == 0 else 10 * float(np.log10(power / noise))
