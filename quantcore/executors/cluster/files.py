"""Files of a job where a worker can reach them: the same path, or a URL with a cache; by hash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from quantcore.errors import DataError, QuantcoreError
from quantcore.runtime.files import write_whole
from quantcore.runtime.keys import file_digest, file_stamp
from quantcore.showing import one_line

#: A folder where the study is, and the URL under which workers find the same.
Mapped = tuple[str, str]

#: Files that this process has read, by what changes when they are written.
_KNOWN: dict[object, str] = {}


class Unreachable(DataError):  # noqa: N818 - reads as the state it reports
    """A worker cannot read a file, or it reads another one."""


def reach(path: Path, digest: str, mapped: Sequence[Mapped]) -> Path:
    """A file with that content which this machine can read.

    Args:
        path: What the file is called where the study is.
        digest: Its SHA-256.
        mapped: Folders that are elsewhere for workers.

    Raises:
        Unreachable: There is none; says what was tried.
    """
    for folder, url in mapped:
        if path.is_relative_to(folder):
            return _fetched(f"{url.rstrip('/')}/{path.relative_to(folder).as_posix()}", digest)
    try:
        if _digest(path) == digest:
            return path
    except DataError as error:
        raise Unreachable(str(error)) from None
    raise Unreachable(f"{path}: another file than where the study is")


def _digest(path: Path) -> str:
    stamp = file_stamp(path)
    if stamp not in _KNOWN:
        _KNOWN[stamp] = file_digest(path)
    return _KNOWN[stamp]


def cache() -> Path:
    """Where fetched files are kept, of this machine's user."""
    told = os.environ.get("XDG_CACHE_HOME")
    return (Path(told) if told else Path.home() / ".cache") / "quantcore" / "files"


def _fetched(url: str, digest: str) -> Path:
    """The file in the cache, fetched where it is not there."""
    kept = cache() / digest[:2] / f"{digest}{PurePosixPath(url).suffix}"
    try:
        if _digest(kept) == digest:
            return kept
    except DataError:
        pass  # not there yet
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            write_whole(kept, file.read())
        found = _digest(kept)
    except QuantcoreError:
        raise
    except Exception as error:  # each file system has its own
        raise Unreachable(one_line(f"{url}: cannot read: {error}", 300)) from None
    if found != digest:
        kept.unlink(missing_ok=True)
        raise Unreachable(f"{url}: another file than where the study is")
    return kept
