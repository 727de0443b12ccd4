"""Finished work of a study on disk, under keys that hold everything it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quantcore.data.coco import CocoImage
from quantcore.errors import DataError
from quantcore.files import write_whole
from quantcore.ir import FloatModel
from quantcore.progress import Progress


def digest(*parts: object) -> str:
    """SHA-256 of some values with a stable `repr`; the key of what is made of them."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def model_key(model: FloatModel) -> str:
    """The key of a model: its graph, its pre- and post-processing, its classes."""
    return digest(model.fingerprint, model.preprocessing, model.decoding, model.class_names)


def image_keys(images: Iterable[CocoImage], progress: Progress) -> dict[Path, str]:
    """SHA-256 of each image file.

    Raises:
        DataError: A file cannot be read.
    """
    found = {}
    for image in progress.track(tuple(images), "fingerprinting images"):
        try:
            found[image.path] = hashlib.sha256(image.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{image.path}: cannot read the image: {error.strerror}") from None
    return found


class Store:
    """One JSON file for each piece of work, written whole once it is done.

    Args:
        folder: Where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, name: str, key: str) -> Mapping[str, Any] | None:
        """What was saved under that name, None where it is not there or was made of other inputs.

        A file that is unreadable or was edited is as good as none: its work is done again.
        """
        try:
            data = json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or data.get("key") != key:
            return None
        value = data.get("value")
        return value if data.get("sha256") == _text_digest(value) else None

    def save(self, name: str, key: str, value: Mapping[str, Any]) -> None:
        """Writes a piece of work; raises OutputError."""
        whole = {"key": key, "sha256": _text_digest(value), "value": value}
        write_whole(self._path(name), json.dumps(whole, indent=1, allow_nan=False) + "\n")

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _text_digest(value: object) -> str:
    """SHA-256 of a value as JSON writes it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
