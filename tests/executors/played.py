"""A link whose workers are threads of this process, and do as they are told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantcore.errors import ExecutorError, QuantcoreError
from quantcore.executors.cluster import Link, Post, WorkerAt, post
from quantcore.executors.cluster.announced import Announced, announced
from quantcore.executors.cluster.order import Order, Report
from quantcore.runtime.codec import decoded, encoded
from quantcore.runtime.progress import Silent

TOLD = announced(1, None)


@dataclass
class Played:
    """A worker.

    Attributes:
        name: For people.
        told: What it says of itself.
        dies: Whether it is lost with its first order.
        blind: Why it cannot read files, where it cannot.
        done: What it was ordered to do.
    """

    name: str
    told: Announced = TOLD
    dies: bool = False
    blind: str | None = None
    done: list[str] = field(default_factory=list)


def other(**changes: Any) -> Announced:
    """What a worker with something else says."""
    return replace(TOLD, **changes)


class PlayedLink(Link):
    def __init__(self, folder: Path, *workers: Played) -> None:
        self.played = {worker.name: worker for worker in workers}
        self.gone = False
        self._folder = folder
        self._lock = threading.Lock()

    def workers(self) -> Mapping[str, WorkerAt]:
        if self.gone:
            raise ExecutorError("the scheduler is gone")
        with self._lock:
            return {name: WorkerAt(name, name) for name in self.played}

    def call(
        self, worker: WorkerAt, function: Callable[..., bytes], *arguments: bytes
    ) -> Future[bytes]:
        future: Future[bytes] = Future()
        threading.Thread(target=self._do, args=(worker.id, function, arguments, future)).start()
        return future

    def _do(self, name: str, function: Any, arguments: Any, future: Future[bytes]) -> None:
        worker = self.played.get(name)
        if worker is None:
            return
        at = Post(self._folder / name, 1)
        if function is post.announce:
            future.set_result(encoded(worker.told))
        elif function in (post.keep, post.glance):
            future.set_result(function(at, *arguments))
        elif worker.dies:
            with self._lock:
                del self.played[name]  # and no answer, ever
        else:
            report = self._work(worker, at, decoded(*arguments, Order))
            if not future.cancelled():
                future.set_result(encoded(report))

    def _work(self, worker: Played, at: Post, order: Order) -> Report:
        worker.done.append(order.what)
        if worker.blind and order.what != "sees":
            return Report(pieces=[], error=("Unreachable", worker.blind))
        for name, content in order.parts.items():
            post.keep(at, name.encode(), content)
        pieces = []
        try:
            for found in post._pieces(str(at.folder), replace(order, parts={}), Silent()):
                pieces.append(found)
        except QuantcoreError as error:
            return Report(pieces=pieces, error=(type(error).__name__, str(error)))
        return Report(pieces=pieces, finished=len(pieces), seconds=0.1 * len(pieces), first=0.1)
