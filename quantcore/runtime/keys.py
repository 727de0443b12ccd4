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

#: Path, time and size of a file.
FileStamp = tuple[str, int, int]


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
    if all(file_stamp(path) in _KNOWN for path in once):
        return {path: _KNOWN[file_stamp(path)] for path in once}
    found = {}
    for path in progress.track(once, "fingerprinting images"):
        stamp = file_stamp(path)
        if stamp not in _KNOWN:
            _KNOWN[stamp] = file_digest(path)
        found[path] = _KNOWN[stamp]
    return found


#: Files that this process has read, for studies ask for the same images again and again.
_KNOWN: dict[FileStamp, str] = {}


def file_stamp(path: Path) -> FileStamp:
    """What changes when a file is written; raises DataError where it is not there."""
    try:
        about = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    return str(path), about.st_mtime_ns, about.st_size


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, onnx.ModelProto):
        return graph_digest(value)
    raise TypeError(f"{type(value).__name__} is no value to make a key of")
