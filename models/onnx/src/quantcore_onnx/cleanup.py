"""Small rewrites that leave a graph's results alone: names, batch-norm, Resize."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from quantcore.ir.edits import add_constant, attributes, constants, producers, set_nodes

Values = dict[str, npt.NDArray[np.generic]]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Gives every node a unique name in place; names that are unique already stay."""
    counts = Counter(node.name for node in graph.node)
    taken = set(counts)
    for index, node in enumerate(graph.node):
        if node.name and counts[node.name] == 1:
            continue
        name = f"{node.name or node.op_type}_{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name


def drop_identities(graph: onnx.GraphProto) -> None:
    """Removes nodes that only rename a tensor, in place.

    Those are Identity, Dropout as inference has it, and Cast to the type that is there already,
    which takes a graph whose types are inferred. One that names an output of the graph goes where
    the tensor behind it can take that name.
    """
    ends = {end.name for end in (*graph.input, *graph.output, *graph.initializer)}
    outputs = {output.name for output in graph.output}
    read = {name for node in graph.node for name in node.input} | outputs
    types = _types(graph)
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if not _renames(node, types, read):
            kept.append(node)
            continue
        source = renamed.get(node.input[0], node.input[0])
        if node.output[0] not in outputs:
            renamed[node.output[0]] = source
        elif source not in ends and source not in renamed.values():
            renamed[source] = node.output[0]
            ends.add(source)
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = _followed(renamed, name)
    set_nodes(graph, kept)


def _renames(node: onnx.NodeProto, types: dict[str, int], read: set[str]) -> bool:
    if node.op_type == "Cast":
        return bool(types.get(node.input[0]) == attributes(node)["to"])
    unread = not any(name in read for name in node.output[1:] if name)
    return node.op_type in ("Identity", "Dropout") and unread


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of each tensor, as far as they are known."""
    infos = (*graph.input, *graph.value_info, *graph.output)
    found = {i.name: int(i.type.tensor_type.elem_type) for i in infos}
    return found | {i.name: int(i.data_type) for i in graph.initializer}


def _followed(renamed: dict[str, str], name: str) -> str:
    """What a tensor is called in the end."""
    while name in renamed:
        name = renamed[name]
    return name


def fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Removes every batch-norm in place; those behind a convolution go into its weights.

    One that follows no convolution becomes a multiplication and an addition.
    """
    values: Values = constants(graph)
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(o.name for o in graph.output)
    makers = producers(graph)
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization" or any(n not in values for n in node.input[1:]):
            kept.append(node)
            continue
        scale, shift = _affine(node, values)
        conv = makers.get(node.input[0])
        if (
            conv is not None
            and conv.op_type == "Conv"
            and all(name in values for name in conv.input[1:])
            and readers[node.input[0]] == 1
        ):
            _fold_into(conv, scale, shift, values, graph)
            conv.output[0] = node.output[0]
            makers[node.output[0]] = conv
        else:
            kept.extend(_as_arithmetic(node, scale, shift, graph))
    set_nodes(graph, kept)


def resize_by_scales(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Rewrites Resize nodes with constant sizes to constant scales, in place.

    Sizes name the batch size too, so that a graph with them cannot take another.

    Args:
        graph: The graph.
        shapes: Shapes of the tensors, where they are fixed.
    """
    values: Values = constants(graph)
    for index, node in enumerate(graph.node):
        sizes = values.get(node.input[3]) if len(node.input) > 3 else None
        shape = shapes.get(node.input[0]) if node.op_type == "Resize" else None
        if sizes is None or shape is None or len(shape) != len(sizes):
            continue
        scales = np.asarray(sizes, np.float64) / shape
        # A ratio that FP32 cannot hold could come out one row short.
        if np.all(np.floor(scales.astype(np.float32) * np.array(shape, np.float64)) == sizes):
            name = f"{node.output[0]}.scales.{index}"
            del node.input[2:]
            node.input.append(add_constant(graph, name, scales.astype(np.float32)))


def _affine(
    node: onnx.NodeProto, values: Values
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The factor and the summand that a batch-norm comes to at inference."""
    gamma, beta, mean, variance = (values[n].astype(np.float64) for n in node.input[1:5])
    epsilon = attributes(node).get("epsilon", 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


def _fold_into(
    conv: onnx.NodeProto,
    scale: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
    values: Values,
    graph: onnx.GraphProto,
) -> None:
    weight = values[conv.input[1]].astype(np.float64)
    bias = values[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else np.zeros(len(scale))
    folded = {
        f"{conv.input[1]}.folded.{conv.output[0]}": weight * scale.reshape(-1, 1, 1, 1),
        f"{conv.input[1]}.bias.{conv.output[0]}": bias * scale + shift,
    }
    del conv.input[1:]
    for name, value in folded.items():
        values[name] = value.astype(np.float32)
        conv.input.append(add_constant(graph, name, values[name]))


def _as_arithmetic(
    node: onnx.NodeProto,
    scale: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
    graph: onnx.GraphProto,
) -> list[onnx.NodeProto]:
    output = node.output[0]
    names = (f"{output}.scale", f"{output}.shift")
    for name, value in zip(names, (scale, shift), strict=True):
        add_constant(graph, name, value.astype(np.float32).reshape(-1, 1, 1))
    return [
        helper.make_node(
            "Mul", [node.input[0], names[0]], [f"{output}.scaled"], f"{node.name}.mul"
        ),
        helper.make_node("Add", [f"{output}.scaled", names[1]], [output], f"{node.name}.add"),
    ]
