"""What OpenVINO made of the ONNX nodes: its layers, and what each takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from quantcore.contracts.engine import EngineLayer
from quantcore.engines.common import HEAVY, PRECISIONS, leading

#: Entries of the runtime model that run nothing.
_IDLE = frozenset({"Const", "Input", "Output"})
#: Layers that OpenVINO puts between others; the node names they carry are of their neighbours.
_GLUE = frozenset({"Reorder", "Reshape", "Convert", "FakeQuantize"})
#: Layers with weights.
_HEAVY_KINDS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
#: What OpenVINO appends to the name of a node that it takes apart, or of an output's tensor.
_SUFFIX = re.compile(r"(/WithoutBiases|_original)$")


def layers_of(compiled: Any, ops: Mapping[str, str], names: Mapping[str, str]) -> list[EngineLayer]:
    """What a compiled model runs, with the ONNX nodes that are known by `names`."""
    found = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: _text(value) for key, value in dict(operation.get_rt_info()).items()}
        kind = facts.get("layerType", operation.get_type_name())
        if kind in _IDLE:
            continue
        origins = [_SUFFIX.sub("", n) for n in facts.get("originalLayersNames", "").split(",")]
        known = (names.get(n) for n in origins)
        nodes = tuple(dict.fromkeys(n for n in known if n is not None))
        if kind not in _HEAVY_KINDS:
            # A bias that was not fused still carries its convolution's name.
            nodes = tuple(n for n in nodes if ops[n] not in HEAVY)
        name = None if kind in _GLUE else leading(nodes, ops)
        precision = facts.get("runtimePrecision", "").lower()
        found.append(
            EngineLayer(
                name or operation.get_friendly_name(),
                kind,
                PRECISIONS.get(precision),
                nodes if name else (),
            )
        )
    return found


def owners_of(compiled: Any, ops: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Whose time each entry of a compiled model takes; see `Engine.layer_seconds`.

    Args:
        compiled: The compiled model.
        ops: Operator of each ONNX node.
        names: Node by its own name and by the tensors that it writes.

    Returns:
        The ONNX node with weights, by OpenVINO's name of the entry.
    """
    owners: dict[str, str | None] = {}
    operations = compiled.get_runtime_model().get_ordered_ops()
    for operation in operations:
        facts = {key: _text(value) for key, value in dict(operation.get_rt_info()).items()}
        name, owner = operation.get_friendly_name(), None
        if facts.get("layerType", operation.get_type_name()) in _HEAVY_KINDS:
            origins = [_SUFFIX.sub("", n) for n in facts.get("originalLayersNames", "").split(",")]
            nodes = [names[origin] for origin in origins if origin in names]
            first = leading(nodes, ops)
            owner = first if first is not None and ops[first] in HEAVY else None
        if owner is None:
            before = (value.get_node().get_friendly_name() for value in operation.input_values())
            owner = next((owners[name] for name in before if owners.get(name)), None)
        owners[name] = owner
    # What stands before the first layers is theirs: one graph rearranges the image in an entry of
    # its own, another one within the convolution.
    for operation in reversed(operations):
        name = operation.get_friendly_name()
        if owners[name] is None:
            after = (reader.get_node().get_friendly_name() for reader in _readers(operation))
            owners[name] = next((owners[name] for name in after if owners[name]), None)
    return {name: owner for name, owner in owners.items() if owner is not None}


def _readers(operation: Any) -> Iterator[Any]:
    """The inputs that read an operation's outputs."""
    for output in operation.outputs():
        yield from output.get_target_inputs()


def _text(value: Any) -> str:
    """An entry of the runtime info, whose type differs between releases."""
    return str(value.astype(str) if hasattr(value, "astype") else value)
