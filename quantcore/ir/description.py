"""What an ONNX file says about the detector in it, so that it can be read again without a preset.

One entry of the file's `metadata_props` holds what a `FloatModel` has beside its graph, as JSON. It
is no part of the graph: it goes when the file is read, so that the fingerprint stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from quantcore.errors import CheckpointError, ModelError
from quantcore.ir.edits import copied
from quantcore.ir.model import Decoding, FloatModel, Preprocessing

KEY = "quantcore.contracts.model"
FORMAT = "quantcore.contracts.model/1"


def describe(model: FloatModel) -> onnx.ModelProto:
    """A copy of a model's graph that carries the model's description."""
    data = {
        "format": FORMAT,
        "name": model.name,
        "preprocessing": asdict(model.preprocessing),
        "decoding": asdict(model.decoding),
        "class_names": model.class_names,
    }
    proto = _bare(model.proto)
    proto.metadata_props.add(key=KEY, value=json.dumps(data, allow_nan=False))
    return proto


def described(proto: onnx.ModelProto, path: Path) -> FloatModel | None:
    """The model that a file describes; None where it carries no description.

    Args:
        proto: The file's content.
        path: The file, for error messages.

    Raises:
        CheckpointError: The description is malformed, of another version, or not of this graph.
    """
    found = [entry.value for entry in proto.metadata_props if entry.key == KEY]
    if not found:
        return None
    try:
        if len(found) > 1:
            raise ValueError("it is there more than once")
        model = _read(json.loads(found[0]), _bare(proto))
        _check_ends(model)
    except (ModelError, ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{path}: its description ({KEY} in metadata_props) is not usable: {what}; "
            "export the model again"
        ) from None
    return model


def _bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without a description."""
    copy = copied(proto)
    others = [entry for entry in proto.metadata_props if entry.key != KEY]
    del copy.metadata_props[:]
    copy.metadata_props.extend(others)
    return copy


def _read(data: Any, proto: onnx.ModelProto) -> FloatModel:
    """The model; raises KeyError, TypeError, ValueError or ModelError where it is malformed."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}, the only one that this quantcore reads")
    names = tuple(_text(name) for name in _list(data["class_names"]))
    looks, boxes = _mapping(data["preprocessing"]), _mapping(data["decoding"])
    height, width = (_whole(side) for side in _list(looks["size"]))
    preprocessing = Preprocessing(
        (height, width),
        _text(looks["channels"]),
        _positive(looks["scale"]),
        _text(looks["placement"]),
        _whole(looks["pad_value"]),
    )
    decoding = Decoding(
        _text(boxes["kind"]),
        tuple(_whole(stride) for stride in _list(boxes["strides"])),
        tuple(tuple(map(_anchor, _list(level))) for level in _list(boxes["anchors"])),
    )
    return FloatModel(_text(data["name"]), proto, preprocessing, decoding, names)


def _check_ends(model: FloatModel) -> None:
    """Raises ValueError where input or outputs are not those that the description is about."""
    dims = model.proto.graph.input[0].type.tensor_type.shape.dim
    size = tuple(int(dim.dim_value) for dim in dims[2:])
    wanted = model.preprocessing.size
    if any(have not in (0, want) for have, want in zip(size, wanted, strict=True)):
        raise ValueError(f"it says {wanted} pixels, the graph takes {size}")
    heads = len(model.decoding.strides) if model.decoding.kind == "anchors" else 1
    if len(model.output_names) != heads:
        raise ValueError(f"it says {heads} heads, the graph has {', '.join(model.output_names)}")


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is no whole number from 0")
    return value


def _positive(value: Any) -> float:
    """The number as it is, so that a whole one is written as a whole one again."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not positive and finite")
    return value


def _anchor(value: Any) -> tuple[float, float]:
    width, height = map(_positive, _list(value))
    return width, height
