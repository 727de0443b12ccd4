"""Finished work on disk: found again under its content key, whole or not at all.

One SQLite file holds the records of any number of studies and processes. SQLite keeps a record
whole under a kill and a full disk, and lets processes work beside each other; a checksum in each
record tells what the disk has changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from quantcore.errors import OutputError
from quantcore.runtime.codec import decoded, encoded
from quantcore.runtime.files import ensure_folder

T = TypeVar("T")

#: Key, checksum, value, and when it was put.
_Row = tuple[object, object, object, object]

#: The file in a study's output folder.
FILE = "work.sqlite"

#: What reading a damaged file raises.
_BROKEN = (sqlite3.Error, UnicodeDecodeError)

#: Seconds to wait for another process that is writing.
_PATIENCE = 60.0


class Store:
    """Records by key; a context manager, for any number of threads.

    Attributes:
        path: The file.
    """

    def __init__(self, folder: Path) -> None:
        """Opens or makes the file of a folder.

        A file that is damaged beyond its single records is set aside, with what can still be read
        of it taken over.

        Raises:
            OutputError: The folder cannot be written to.
        """
        self.path = ensure_folder(folder) / FILE
        self._lock = threading.RLock()
        with self._failures():
            try:
                self._database = self._open()
            except _BROKEN as error:
                if not _damaged(error):
                    raise
                self._renew()

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(
            self.path, _PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            # Appending to a log needs no waiting for the disk; a kill loses nothing of it.
            with contextlib.suppress(sqlite3.OperationalError):  # another process is just doing it
                database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(
                # One tree: where damage parts a table from its index, what is put is not found.
                "CREATE TABLE IF NOT EXISTS work (key TEXT PRIMARY KEY, checksum BLOB NOT NULL, "
                "value BLOB NOT NULL, made REAL NOT NULL) WITHOUT ROWID"
            )
        except BaseException:
            database.close()
            raise
        return database

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value under a key, None where there is none that is whole.

        Args:
            key: From `quantcore.runtime.keys.content_key`.
            kind: What was put: a dataclass, or a container of such and of plain values.
        """
        content = self._content(key)
        if content is None:
            return None
        try:
            return decoded(content, kind)
        except ValueError:
            return None  # written by a quantcore with other classes

    def __contains__(self, key: str) -> bool:
        return self._content(key) is not None

    def _content(self, key: str) -> bytes | None:
        """The bytes of a record that is whole."""
        with self._lock, self._failures():
            try:
                query = "SELECT checksum, value FROM work WHERE key = ?"
                row = self._database.execute(query, (key,)).fetchone()
            except _BROKEN as error:
                if not _damaged(error):
                    raise
                self._renew()
                return self._content(key)
        return row[1] if row is not None and _whole(key, *row) else None

    def put(self, key: str, value: object) -> None:
        """Keeps a value; it is there for every process once this returns.

        Raises:
            OutputError: The disk is full, or the file cannot be written to.
        """
        content = encoded(value)
        row = (key, _checksum(key, content), content, time.time())
        self._insert((row,))
        if key not in self:  # damage has left the file's tree out of order
            self._renew()
            self._insert((row,))

    def _insert(self, rows: tuple[_Row, ...]) -> None:
        with self._lock, self._failures():
            try:
                self._database.executemany("INSERT OR REPLACE INTO work VALUES (?, ?, ?, ?)", rows)
            except _BROKEN as error:
                if not _damaged(error):
                    raise
                self._renew()
                self._insert(rows)

    def _renew(self) -> None:
        """Sets a damaged file aside and takes over the records that can still be read."""
        with contextlib.suppress(AttributeError):
            self._database.close()
        aside = self.path.with_suffix(f".damaged{self.path.suffix}")
        self.path.replace(aside)
        for ending in ("-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        self._database = self._open()
        self._insert(tuple(row for row in _readable(aside) if _whole(*row[:3])))

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (*_BROKEN, OSError) as error:
            raise OutputError(
                f"{self.path}: cannot keep finished work: {error}; free some space, or choose "
                "another output folder"
            ) from None

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _damaged(error: Exception) -> bool:
    """Whether the file itself is broken; a full disk or a lock is not that.

    SQLite says of broken files that they are malformed, but a flipped bit may also have renamed a
    column, or be in what Python reads as text.
    """
    surroundings = ("locked", "full", "disk I/O", "readonly", "unable to open", "interrupted")
    return not any(words in str(error) for words in surroundings)


def _readable(path: Path) -> Iterator[_Row]:
    """Rows of a damaged file, from either end up to where reading fails."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(*_BROKEN):
                yield from database.execute(
                    f"SELECT key, checksum, value, made FROM work ORDER BY key {order}"
                )


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16, key=key.encode()[:64]).digest()


def _whole(key: object, checksum: object, content: object) -> bool:
    return (
        isinstance(key, str) and isinstance(content, bytes) and _checksum(key, content) == checksum
    )
