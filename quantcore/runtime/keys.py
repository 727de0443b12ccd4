"""Content keys: two pieces of work share one exactly where the same values go into both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import onnx

from quantcore.errors import DataError
from quantcore.runtime.progress import Progress

_READ = 1 << 20


def content_key(*parts: object) -> str:
    """SHA-256 of some values: numbers, texts, bytes, paths, graphs, and containers or dataclasses.

    What is not a value (an open file, a session) is refused, so that no key can depend on where an
    object lies in memory.

    Raises:
        TypeError: A part is no value.
    """
    text = msgspec.json.encode(parts, enc_hook=_plain, order="deterministic")
    return hashlib.sha256(text).hexdigest()


def graph_digest(proto: onnx.ModelProto) -> str:
    """SHA-256 of a graph and its constants."""
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        DataError: It cannot be read.
    """
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_READ):
                found.update(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    return found.hexdigest()


def file_digests(paths: Iterable[Path], progress: Progress) -> dict[Path, str]:
    """SHA-256 of each file, read once.

    Raises:
        DataError: A file cannot be read.
    """
    once = tuple(dict.fromkeys(paths))
    return {path: file_digest(path) for path in progress.track(once, "fingerprinting images")}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, onnx.ModelProto):
        return graph_digest(value)
    raise TypeError(f"{type(value).__name__} is no value to make a key of")
