"""Checkpoints as .safetensors: the state dict, and the model's description in the metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from quantcore.errors import CheckpointError
from quantcore.ir.model import Array
from quantcore.reading import parse_json, size_of
from quantcore.showing import one_line

#: A network input of more pixels would take gigabytes for one image.
_MAX_SIDE = 1 << 13
#: More than any detector has, and any description takes.
_MAX_TENSORS, _MAX_METADATA = 20_000, 1 << 22

#: Value of the metadata key `format`.
FORMAT = "quantcore-yolo/1"


@dataclass(frozen=True)
class SafetensorsContent:
    """What such a file holds.

    Attributes:
        tensors: Parameters and buffers in FP32 by their state-dict name.
        yaml: `nc`, `depth_multiple`, `width_multiple`, `anchors`, `backbone`, `head`.
        names: Class names in index order.
        bn_eps: Epsilon of every batch-norm.
        image_size: Side of the network input in pixels, or None.
    """

    tensors: dict[str, Array]
    yaml: dict[str, object]
    names: tuple[str, ...]
    bn_eps: float
    image_size: int | None


def read_safetensors(path: Path) -> SafetensorsContent:
    """Reads a checkpoint of format `quantcore-yolo/1`.

    Raises:
        CheckpointError: The file is missing or damaged, or its metadata are incomplete.
    """
    size = size_of(path, CheckpointError)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            _check_size(path, file, names, size)
            tensors = {n: np.array(file.get_tensor(n), dtype=np.float32) for n in names}
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError, KeyError) as error:
        reason = one_line(str(error), 300)
        raise CheckpointError(f"{path}: not a readable .safetensors file ({reason})") from None
    return _content(path, metadata, tensors)


def _content(path: Path, metadata: dict[str, str], tensors: dict[str, Array]) -> SafetensorsContent:
    """Checks the metadata, which are texts, and turns them into values."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has no metadata format={FORMAT}, so its architecture is unknown; give the "
            ".pt checkpoint, or add the metadata keys yaml, names and bn_eps"
        )
    try:
        yaml = parse_json(_short(metadata["yaml"]))
        names = parse_json(_short(metadata["names"]))
        eps = float(metadata["bn_eps"])
        size = int(metadata["image_size"]) if "image_size" in metadata else None
    except (KeyError, ValueError) as error:
        reason = one_line(str(error), 200)
        raise CheckpointError(f"{path}: metadata are missing or malformed: {reason}") from None
    if not isinstance(yaml, dict):
        raise CheckpointError(f"{path}: metadata yaml must be a JSON object")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: metadata names must be a JSON list of texts")
    if not (math.isfinite(eps) and eps > 0) or not (size is None or 1 <= size <= _MAX_SIDE):
        raise CheckpointError(
            f"{path}: metadata bn_eps and image_size must be positive, and image_size at most "
            f"{_MAX_SIDE}"
        )
    return SafetensorsContent(tensors, yaml, tuple(names), eps, size)


def _check_size(path: Path, file: Any, names: list[str], size: int) -> None:
    """Refuses tensors that come to more than the file: the format lets none share its bytes."""
    if len(names) > _MAX_TENSORS:
        raise CheckpointError(f"{path}: holds {len(names)} tensors, more than any detector")
    counts = [math.prod(file.get_slice(name).get_shape()) for name in names]
    if sum(counts) > size:
        raise CheckpointError(f"{path}: its tensors are larger than the file")


def _short(text: str) -> str:
    if len(text) > _MAX_METADATA:
        raise ValueError(f"a text of {len(text)} characters is too long")
    return text
