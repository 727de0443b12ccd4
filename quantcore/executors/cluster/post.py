"""A worker's side: what the functions that a `Link` calls do over there.

Jobs run in child processes of the worker, which can be ended at any time and whose memory is
theirs alone; the worker itself only passes bytes on, and so always answers. Parts of jobs are kept
as files, for those processes to read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantcore.errors import BackendError, ExecutorError, QuantcoreError
from quantcore.executors.cluster.announced import announced
from quantcore.executors.cluster.files import reach
from quantcore.executors.cluster.order import Glance, Order, Report
from quantcore.executors.cluster.parcel import name_of, unpacked, unpacked_job
from quantcore.runtime.codec import decoded, encoded
from quantcore.runtime.files import write_whole
from quantcore.runtime.progress import Progress
from quantcore.runtime.worker import Worker

#: Seconds between two looks at whether a job is still wanted and what memory it takes.
_LOOK = 0.5

#: Share of a worker's memory at which a job is ended, as Dask's own limit for workers.
_MOST_MEMORY = 0.95


@dataclass(frozen=True)
class Post:
    """Where a worker stands.

    Attributes:
        folder: Of its own, for parts of jobs; gone when the worker is.
        threads: That it may use.
        memory: Bytes that it may use; None for no limit.
        wanted: Whether what is being called is still wanted.
    """

    folder: Path
    threads: int
    memory: int | None = None
    wanted: Callable[[], bool] = lambda: True


def announce(post: Post) -> bytes:
    """Says what this worker has; an `Announced`."""
    return encoded(announced(post.threads, post.memory))


def keep(post: Post, *parts: bytes) -> bytes:
    """Keeps parts of jobs, given as names and contents in turns.

    Raises:
        ExecutorError: One is not what its name says.
    """
    for name, content in zip(map(bytes.decode, parts[::2]), parts[1::2], strict=True):
        if name_of(content) != name:
            raise ExecutorError(f"part {name[:12]} came damaged")
        if not (post.folder / name).exists():
            write_whole(post.folder / name, content)
    return b""


def work(post: Post, content: bytes) -> bytes:
    """Does an `Order`; a `Report`."""
    order = decoded(content, Order)
    keep(post, *(x for name, part in order.parts.items() for x in (name.encode(), part)))
    return encoded(_done(post, replace(order, parts={})))


def glance(post: Post, order: bytes, have: bytes) -> bytes:
    """Looks at an order that runs; a `Glance`.

    Args:
        post: Where this worker stands.
        order: Its id.
        have: How many of its pieces the asker has, as decimal digits.
    """
    found = _UNDER_WAY.get(order.decode())
    return encoded(found.seen(int(have)) if found else Glance(pieces=[]))


class _UnderWay(Progress):
    """An order under way: the pieces that are finished, and what its process is at."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytes]] = []
        self._known = self._next = 0
        self._bars: dict[int, tuple[str, int, int | None]] = {}
        self._lock = threading.Lock()

    def add(self, piece: tuple[int, bytes]) -> None:
        """One more is finished."""
        with self._lock:
            self._pieces.append(piece)

    def seen(self, have: int) -> Glance:
        """What is new for somebody who has so many pieces."""
        with self._lock:
            self._known = max(self._known, have)
            doing = ""
            if self._bars:
                description, done, total = list(self._bars.values())[-1]
                doing = f"{description}: {done}" + (f"/{total}" if total else "")
            return Glance(pieces=self._pieces[have:], doing=doing)

    def left(self) -> tuple[list[tuple[int, bytes]], int]:
        """The pieces that nobody is known to have, and how many there are in all."""
        with self._lock:
            return self._pieces[self._known :], len(self._pieces)

    def start(self, description: str, total: int | None) -> int:
        """See Progress."""
        with self._lock:
            self._next += 1
            self._bars[self._next] = description, 0, total
            return self._next

    def advance(self, task: int) -> None:
        """See Progress."""
        with self._lock:
            description, done, total = self._bars[task]
            self._bars[task] = description, done + 1, total

    def stop(self, task: int) -> None:
        """See Progress."""
        with self._lock:
            del self._bars[task]


#: Orders that run in this process, by id: in a cluster of threads there are several.
_UNDER_WAY: dict[str, _UnderWay] = {}


def _done(post: Post, order: Order) -> Report:
    under = _UNDER_WAY[order.id] = _UnderWay()
    try:
        return _worked(post, order, under)
    finally:
        del _UNDER_WAY[order.id]


def _worked(post: Post, order: Order, under: _UnderWay) -> Report:
    began, first = time.monotonic(), 0.0
    error: tuple[str, str] | None = None
    died: str | None = None
    threads = min(order.threads or post.threads, post.threads)
    with _process(order, threads) as process, _watch(post, process) as watch:
        try:
            for found in process.run(_pieces, str(post.folder), order, progress=under):
                first = first or time.monotonic() - began
                under.add(found)
        except (QuantcoreError, OSError) as raised:
            if process.ended:
                died = watch.why or str(raised)
            elif isinstance(raised, OSError):
                raise
            else:
                error = type(raised).__name__, str(raised)
    seconds = time.monotonic() - began
    pieces, finished = under.left()
    return Report(
        pieces=pieces, finished=finished, error=error, died=died, seconds=seconds, first=first
    )


def _pieces(folder: str, order: Order, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """The work itself, in its process: each piece as it is finished."""

    def find(name: str) -> bytes:
        return (Path(folder) / name).read_bytes()

    def found(path: Path, digest: str) -> Path:
        return reach(path, digest, order.mapped)

    function, arguments = unpacked_job(order.job, find, found)
    wanted = unpacked(order.wanted, find, found)
    for number, value in function(*arguments, wanted, progress):
        yield number, encoded(value)


class _Standing:
    """The process for jobs that need none of their own; it stays from order to order."""

    process: Worker | None = None
    lock = threading.Lock()


@contextlib.contextmanager
def _process(order: Order, threads: int) -> Iterator[Worker]:
    if order.apart:
        with Worker(order.what, threads) as process:
            yield process
        return
    with _Standing.lock:
        if _Standing.process is None or _Standing.process.ended:
            _Standing.process = Worker("a worker's standing process", threads)
        try:
            yield _Standing.process
        except BaseException:
            _Standing.process.close()
            raise


class _Watch:
    """Ends a process that takes too much memory, or whose work nobody wants any more."""

    def __init__(self, post: Post, process: Worker) -> None:
        self.why: str | None = None
        self._post, self._process = post, process
        self._over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        memory = self._post.memory
        while not self._over.wait(_LOOK):
            if not self._post.wanted():
                self.why = "it is not wanted any more"
            elif memory and (used := self._process.rss()) > _MOST_MEMORY * memory:
                self.why = (
                    f"it took {used / 1e6:.0f} MB of memory, and the worker may use "
                    f"{memory / 1e6:.0f} MB"
                )
            else:
                continue
            self._process.close()
            return

    def over(self) -> None:
        self._over.set()


@contextlib.contextmanager
def _watch(post: Post, process: Worker) -> Iterator[_Watch]:
    watch = _Watch(post, process)
    try:
        yield watch
    finally:
        watch.over()


def error_of(told: tuple[str, str]) -> QuantcoreError:
    """The error of a report, as quantcore's own class where it is one."""
    import quantcore.errors as known

    kind: Any = getattr(known, told[0], BackendError)
    return kind(told[1]) if issubclass(kind, QuantcoreError) else BackendError(told[1])
