"""One exchange with a worker: a share with what the worker lacks goes, a report comes."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from quantcore.executors.cluster import post
from quantcore.executors.cluster.announced import Announced
from quantcore.executors.cluster.board import Seat, Share
from quantcore.executors.cluster.files import Mapped
from quantcore.executors.cluster.link import Link, WorkerAt, WorkerLost
from quantcore.executors.cluster.order import Glance, Order, Report
from quantcore.executors.cluster.parcel import packed
from quantcore.runtime.codec import decoded, encoded

#: Seconds after which a call looks whether its worker is still there.
_PATIENCE = 0.2

#: Seconds between two glances at what a worker has under way.
_GLANCE = 5.0

#: Times that a worker is sent a part before it is taken for lost.
_TRIES = 4

#: Bytes of parts that go along with an order; larger ones are kept by the worker beforehand.
_ALONG = 1 << 16


class Exchange:
    """What goes over a link.

    Args:
        link: The link.
        mapped: See `files.Mapped`.
        over: Whether nothing is wanted any more.
    """

    def __init__(self, link: Link, mapped: Sequence[Mapped], over: Callable[[], bool]) -> None:
        self._link, self._mapped, self._over = link, tuple(mapped), over

    def greet(self, at: WorkerAt) -> Announced:
        """What a worker says of itself.

        Raises:
            ExecutorError: It fails, or is lost.
            ValueError: It says something that this quantcore does not understand.
        """
        return decoded(self._result(self._link.call(at, post.announce), self._over), Announced)

    def send(self, seat: Seat, share: Share, glanced: Callable[[Glance], None]) -> Report:
        """Has a share done.

        Args:
            seat: By whom.
            share: What.
            glanced: Is told now and then how far it is.

        Raises:
            WorkerLost: The worker is gone, or nobody wants the share any more.
            ExecutorError: The share cannot be sent.
            ValueError: What comes back is no report.
        """

        def over() -> bool:
            return self._over() or not seat.there or share.task.over

        task = share.task
        parts = dict(task.parts)
        about = [task.job.pieces[number].about for number in share.numbers]
        wanted = packed(about, task.job.reads, parts)
        new = {name: content for name, content in parts.items() if name not in seat.kept}
        along = {name: content for name, content in new.items() if len(content) <= _ALONG}
        self._keep(seat, {name: c for name, c in new.items() if name not in along}, over)
        order = Order(
            id=uuid.uuid4().hex,
            what=task.job.what,
            job=task.name,
            wanted=wanted,
            parts=along,
            mapped=self._mapped,
            apart=task.job.apart,
            threads=task.job.threads,
        )
        # Nothing else runs beside what measures time.
        look = None if share.quiet else _Look(self._link, seat.at, order.id, glanced)
        content = self._result(self._link.call(seat.at, post.work, encoded(order)), over, look)
        seat.kept.update(along)
        return decoded(content, Report)

    def _keep(self, seat: Seat, parts: Mapping[str, bytes], over: Callable[[], bool]) -> None:
        """Has a worker keep parts; again where what was lost is another one that had them."""
        for left in reversed(range(_TRIES if parts else 0)):
            try:
                self._result(self._link.keep(seat.at, parts), over)
            except WorkerLost:
                if over() or not left:
                    raise
            else:
                seat.kept.update(parts)
                return

    def _result(
        self, future: Future[bytes], over: Callable[[], bool], look: _Look | None = None
    ) -> bytes:
        """What a call returns, as long as it is wanted."""
        while True:
            try:
                return future.result(_PATIENCE)
            except FutureTimeout:
                if over():
                    future.cancel()
                    raise WorkerLost("the worker is gone, or the work not wanted") from None
                if look is not None:
                    look.on()


class _Look:
    """Glances at an order from time to time; one that is never answered does no harm."""

    def __init__(
        self, link: Link, at: WorkerAt, order: str, glanced: Callable[[Glance], None]
    ) -> None:
        self._link, self._at, self._order, self._glanced = link, at, order, glanced
        self._due, self._have = time.monotonic() + _GLANCE, 0
        self._asked: Future[bytes] | None = None

    def on(self) -> None:
        """Asks where it is time, and passes on what has been answered."""
        if self._asked is None and time.monotonic() >= self._due:
            given = self._order.encode(), str(self._have).encode()
            self._asked = self._link.call(self._at, post.glance, *given)
        elif self._asked is not None and self._asked.done():
            with contextlib.suppress(Exception):  # of Dask's: the work itself will tell
                found = decoded(self._asked.result(), Glance)
                self._have += len(found.pieces)
                self._glanced(found)
            self._asked, self._due = None, time.monotonic() + _GLANCE
