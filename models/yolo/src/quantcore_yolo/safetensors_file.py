"""Checkpoints as .safetensors: the state dict, and the model's description in the metadata."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from quantcore.errors import CheckpointError
from quantcore.ir.model import Array

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
    if not path.is_file():
        reason = "is a directory" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {reason}; give a YOLO checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            tensors = {n: np.array(file.get_tensor(n), dtype=np.float32) for n in names}
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
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
        yaml = json.loads(metadata["yaml"])
        names = json.loads(metadata["names"])
        eps = float(metadata["bn_eps"])
        size = int(metadata["image_size"]) if "image_size" in metadata else None
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: metadata are missing or malformed: {error}") from None
    if not isinstance(yaml, dict):
        raise CheckpointError(f"{path}: metadata yaml must be a JSON object")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: metadata names must be a JSON list of texts")
    if not (math.isfinite(eps) and eps > 0) or (size is not None and size < 1):
        raise CheckpointError(f"{path}: metadata bn_eps and image_size must be positive")
    return SafetensorsContent(tensors, yaml, tuple(names), eps, size)
