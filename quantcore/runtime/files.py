"""Writing results so that a file is there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from quantcore.errors import OutputError
from quantcore.runtime.signals import held


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file through a temporary neighbour, so that a failure keeps what was there.

    Args:
        path: Where to; missing parent folders are made.
        content: Text is written as UTF-8.

    Raises:
        OutputError: The folder cannot be made or written to.
    """
    data = content.encode() if isinstance(content, str) else content
    with held():  # a signal leaves no temporary file
        _write_whole(path, data)


def _write_whole(path: Path, data: bytes) -> None:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files for the owner alone; results are ordinary files.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot write: {error.strerror or error}") from None


def ensure_folder(path: Path) -> Path:
    """Makes an output folder and proves that it can be written to, before hours of work.

    Raises:
        OutputError: It cannot be made, is a file, or cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"{path}: not a writable folder: {error.strerror or error}") from None
    return path
