"""Reading what TensorRT's engine inspector tells about the layers of a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantcore.contracts.engine import EngineLayer

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
#: Formats are prose: "Row major linear FP32", "Thirty-two wide channel vectorized Int8 format".
_FORMATS = (
    (re.compile(r"\bU?Int8\b", re.IGNORECASE), "int8"),
    (re.compile(r"\bFP8\b", re.IGNORECASE), "fp8"),
    (re.compile(r"\bBF16\b|\bBFloat16\b", re.IGNORECASE), "bf16"),
    (re.compile(r"\bFP16\b|\bHalf\b", re.IGNORECASE), "fp16"),
    (re.compile(r"\bFP32\b|\bFloat\b", re.IGNORECASE), "fp32"),
)


def read_layers(information: Mapping[str, Any]) -> list[EngineLayer]:
    """The layers of a plan, from the inspector's JSON.

    Args:
        information: Its `Layers` are names alone where the plan was built without details.
    """
    return [
        _layer(entry) if isinstance(entry, Mapping) else EngineLayer(str(entry), "unknown", None)
        for entry in information.get("Layers", ())
    ]


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    nodes = tuple(dict.fromkeys(_ONNX_NODE.findall(str(entry.get("Metadata", "")))))
    if not nodes:
        nodes = tuple(part.strip() for part in name.split(" + "))
    op = str(entry.get("ParameterType") or entry.get("LayerType") or "unknown")
    return EngineLayer(name, op, _precision(entry), nodes)


def _precision(entry: Mapping[str, Any]) -> str | None:
    """The type of the first tensor that the layer reads, which its kernel computes with.

    Its output says less: a layer may quantize or dequantize what it writes on the way.
    """
    for tensor in entry.get("Inputs", ()):
        text = str(tensor.get("Format/Datatype", "")) if isinstance(tensor, Mapping) else ""
        for pattern, word in _FORMATS:
            if pattern.search(text):
                return word
    return None
