"""One exchange with a worker: a share with what the worker lacks goes, a report comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from quantcore.executors.cluster import post
from quantcore.executors.cluster.announced import Announced
from quantcore.executors.cluster.board import Seat, Share
from quantcore.executors.cluster.files import Mapped
from quantcore.executors.cluster.link import Link, WorkerAt, WorkerLost
from quantcore.executors.cluster.order import Order, Report
from quantcore.executors.cluster.parcel import packed
from quantcore.runtime.codec import decoded, encoded

#: Seconds after which a call looks whether its worker is still there.
_PATIENCE = 0.2

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

    def send(self, seat: Seat, share: Share) -> Report:
        """Has a share done.

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
        along = {}
        for name, content in parts.items():
            if name in seat.kept:
                continue
            if len(content) <= _ALONG:
                along[name] = content
            else:
                self._keep(seat, name, content, over)
        order = Order(
            what=task.job.what,
            job=task.name,
            wanted=wanted,
            parts=along,
            mapped=self._mapped,
            apart=task.job.apart,
            threads=task.job.threads,
        )
        content = self._result(self._link.call(seat.at, post.work, encoded(order)), over)
        seat.kept.update(along)
        return decoded(content, Report)

    def _keep(self, seat: Seat, name: str, content: bytes, over: Callable[[], bool]) -> None:
        """Has a worker keep a part; again where what was lost is another one that had it."""
        for left in reversed(range(_TRIES)):
            try:
                self._result(self._link.keep(seat.at, name, content), over)
            except WorkerLost:
                if over() or not left:
                    raise
            else:
                seat.kept.add(name)
                return

    def _result(self, future: Future[bytes], over: Callable[[], bool]) -> bytes:
        """What a call returns, as long as it is wanted."""
        while True:
            try:
                return future.result(_PATIENCE)
            except FutureTimeout:
                if over():
                    future.cancel()
                    raise WorkerLost("the worker is gone, or the work not wanted") from None
