"""What an ONNX file says about the model in it, so that it can be read again without being told.

One entry of the file's `metadata_props` holds what a `FloatModel` has beside its graph, as JSON. It
is no part of the graph: it goes when the file is read, so that the fingerprint stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from quantcore.errors import CheckpointError, ModelError, PluginError
from quantcore.ir.decoding import Decoding
from quantcore.ir.edits import copied
from quantcore.ir.model import FloatModel, Preprocessing
from quantcore.ir.values import listed, mapping, text
from quantcore.reading import parse_json
from quantcore.showing import one_line

KEY = "quantcore.model"
#: A description of a thousand classes takes 30,000.
_MOST_CHARACTERS = 1 << 22
FORMAT = "quantcore.model/1"

#: The class behind the kind that a description names; raises PluginError where there is none.
Decodings = Callable[[str], type[Decoding]]


def describe(model: FloatModel) -> onnx.ModelProto:
    """A copy of a model's graph that carries the model's description."""
    data = {
        "format": FORMAT,
        "name": model.name,
        "preprocessing": model.preprocessing.to_dict(),
        "decoding": model.decoding.to_dict(),
        "class_names": model.class_names,
    }
    proto = _bare(model.proto)
    proto.metadata_props.add(key=KEY, value=json.dumps(data, allow_nan=False))
    return proto


def described(
    proto: onnx.ModelProto, path: Path, decodings: Decodings, whole: bool = True
) -> FloatModel | None:
    """The model that a file describes; None where it carries no description.

    Args:
        proto: The file's content.
        path: The file, for error messages.
        decodings: Finds a decoding, as `quantcore.contracts.registry.load_decoding` does.
        whole: Whether the outputs must be what is decoded; not so of the front of a network.

    Raises:
        CheckpointError: The description is malformed, of another version, of a kind of decoding
            that is not installed, or not of this graph.
    """
    found = [entry.value for entry in proto.metadata_props if entry.key == KEY]
    if not found:
        return None
    try:
        if len(found) > 1:
            raise ValueError("it is there more than once")
        model = _read(_parsed(found[0]), _bare(proto), decodings)
        _check_ends(model, whole)
    except PluginError as error:
        raise CheckpointError(
            f"{path}: its description ({KEY} in metadata_props) needs a decoding that is not to be "
            f"had: {error}"
        ) from None
    except (ModelError, ValueError, TypeError, KeyError, OverflowError) as error:
        what = one_line(f"no {error}" if isinstance(error, KeyError) else str(error), 300)
        raise CheckpointError(
            f"{path}: its description ({KEY} in metadata_props) is not usable: {what}; "
            "export the model again"
        ) from None
    return model


def _parsed(content: str) -> Any:
    if len(content) > _MOST_CHARACTERS:
        raise ValueError(f"it has {len(content)} characters")
    return parse_json(content, infinite=True)


def _bare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without a description."""
    copy = copied(proto)
    others = [entry for entry in proto.metadata_props if entry.key != KEY]
    del copy.metadata_props[:]
    copy.metadata_props.extend(others)
    return copy


def _read(data: Any, proto: onnx.ModelProto, decodings: Decodings) -> FloatModel:
    """The model; raises KeyError, TypeError, ValueError or ModelError where it is malformed."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}, the only one that this quantcore reads")
    names = tuple(text(name) for name in listed(data["class_names"]))
    looks, boxes = mapping(data["preprocessing"]), mapping(data["decoding"])
    preprocessing = Preprocessing.from_dict(looks)
    decoding = decodings(text(boxes["kind"])).from_dict(boxes)
    return FloatModel(text(data["name"]), proto, preprocessing, decoding, names)


def _check_ends(model: FloatModel, whole: bool) -> None:
    """Raises ValueError where input or outputs are not those that the description is about."""
    dims = model.proto.graph.input[0].type.tensor_type.shape.dim
    size = tuple(int(dim.dim_value) for dim in dims[2:])
    wanted = model.preprocessing.size
    if any(have not in (0, want) for have, want in zip(size, wanted, strict=True)):
        raise ValueError(f"it says {wanted} pixels, the graph takes {size}")
    heads = model.decoding.heads
    if whole and len(model.output_names) != heads:
        raise ValueError(f"it says {heads} heads, the graph has {', '.join(model.output_names)}")
