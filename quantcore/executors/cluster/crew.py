"""The workers of a link: seen as they come and go, greeted, and served by a thread each."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from quantcore.errors import ExecutorError, QuantcoreError
from quantcore.executors.cluster.announced import announced
from quantcore.executors.cluster.board import Board, Seat, Share
from quantcore.executors.cluster.exchange import Exchange
from quantcore.executors.cluster.files import Mapped
from quantcore.executors.cluster.link import Link, WorkerAt, WorkerLost
from quantcore.executors.cluster.order import Glance, Report
from quantcore.runtime.notes import note

#: Seconds between two looks at which workers are there.
_LOOK = 0.5

#: Looks after one another that find a worker gone before that is believed.
_GONE = 2


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """How work is spread.

    Attributes:
        mapped: Folders that workers find elsewhere; see `files.reach`.
        any_versions: Whether workers may have other versions than this process.
        deaths: Workers that may die of a share before its job is given up.
        wait: Seconds to wait for a worker, at the start and where all able ones are gone.
    """

    mapped: tuple[Mapped, ...] = ()
    any_versions: bool = False
    deaths: int = 2
    wait: float = 60.0


class Outcomes(ABC):
    """Is told what becomes of shares; from any thread."""

    @abstractmethod
    def glanced(self, seat: Seat, share: Share, glance: Glance) -> None:
        """A worker has told how far it is."""

    @abstractmethod
    def came_back(self, seat: Seat, share: Share, report: Report) -> None:
        """A worker has reported."""

    @abstractmethod
    def died(self, seat: Seat, share: Share, why: str) -> None:
        """A worker was lost in the middle of a share."""

    @abstractmethod
    def unsent(self, share: Share, error: Exception) -> None:
        """A share could not be sent, or its report not be read."""

    @abstractmethod
    def lost(self, error: ExecutorError) -> None:
        """Whoever knows the workers is gone: nothing more will come back."""

    @abstractmethod
    def looked(self) -> None:
        """The workers were just looked after."""


class Crew:
    """Looks after the workers of a link.

    Attributes:
        board: What waits and who is there; under `changed`.
        changed: The lock, and the bell for those who wait.
    """

    def __init__(self, link: Link, options: ClusterOptions, outcomes: Outcomes) -> None:
        """Looks at nothing before `begin`."""
        self.board, self.changed = Board(), threading.Condition()
        self._link, self._options, self._outcomes = link, options, outcomes
        self._exchange = Exchange(link, options.mapped, self.is_over)
        self._mine = announced(1, None)
        self._refused: dict[str, str] = {}
        self._greeted: set[str] = set()
        self._missing: Counter[str] = Counter()
        self._closed = threading.Event()
        self._lost: ExecutorError | None = None
        self._watcher = threading.Thread(target=self._watch, name="quantcore-workers", daemon=True)

    def is_over(self) -> bool:
        """Whether nothing is done any more."""
        return self._closed.is_set() or self._lost is not None

    def check(self) -> None:
        """Raises ExecutorError where nothing can be done any more."""
        if self._lost is not None:
            raise self._lost
        if self._closed.is_set():
            raise ExecutorError("the executor is closed")

    def begin(self) -> None:
        """Waits until every worker that is there has said what it is.

        Raises:
            ExecutorError: There is none, or one has other versions than this process.
        """
        self._watcher.start()
        with self.changed:
            ready = self.changed.wait_for(self._all_known, self._options.wait)
            if self._lost is not None:
                raise self._lost
            if self._refused and not self._options.any_versions:
                told = "; ".join(f"{who}: {why}" for who, why in sorted(self._refused.items()))
                raise ExecutorError(
                    f"workers with other versions than here: {told}; install the same, or allow "
                    "it (--executor-option any-versions=true)"
                )
            if not ready or not self.board.seats:
                raise ExecutorError(
                    f"no worker came within {self._options.wait:.0f} s; start some, or wait longer "
                    "(--executor-option wait=SECONDS)"
                )

    def close(self) -> None:
        """Sends everybody home; safe to call twice."""
        with self.changed:
            self._closed.set()
            self.changed.notify_all()
        if self._watcher.is_alive():
            self._watcher.join()
        self._link.close()

    def _all_known(self) -> bool:
        known = len(self.board.seats) + len(self._refused)
        return self._lost is not None or (known > 0 and known >= len(self._greeted))

    def _watch(self) -> None:
        """Sees workers come and go."""
        while not self._closed.is_set():
            found = self._workers()
            if found is None:
                return
            with self.changed:
                self._missing = Counter(
                    {id: self._missing[id] + 1 for id in self._greeted - found.keys()}
                )
                for id in [id for id, looks in self._missing.items() if looks >= _GONE]:
                    self._greeted.discard(id)
                    if id in self.board.seats:
                        self.board.seats.pop(id).there = False
                for id, at in found.items():
                    if id not in self._greeted:
                        self._greeted.add(id)
                        threading.Thread(target=self._attend, args=(at,), daemon=True).start()
                self.changed.notify_all()
            self._outcomes.looked()
            self._closed.wait(_LOOK)

    def _workers(self) -> Mapping[str, WorkerAt] | None:
        """The workers that are there; None once nobody can be asked any more."""
        try:
            return self._link.workers()
        except ExecutorError as error:
            with self.changed:
                self._lost = error
                self.changed.notify_all()
            self._outcomes.lost(error)
            return None

    def _attend(self, at: WorkerAt) -> None:
        """One worker from its coming to its going."""
        seat = self._seated(at)
        if seat is None:
            return
        while (share := self._next(seat)) is not None:
            try:
                glanced = partial(self._outcomes.glanced, seat, share)
                report = self._exchange.send(seat, share, glanced)
            except WorkerLost:
                # Where the scheduler is lost, all calls are: no worker is to blame.
                if self._workers() is not None:
                    self._outcomes.died(seat, share, "it was lost")
            except Exception as error:
                self._outcomes.unsent(share, error)
            else:
                self._outcomes.came_back(seat, share, report)
            with self.changed:
                self.board.ended(seat)
                self.changed.notify_all()
        with self.changed:
            self.board.ended(seat)

    def _seated(self, at: WorkerAt) -> Seat | None:
        """Lets a worker say what it is; None where it is given no work."""
        try:
            told = self._exchange.greet(at)
        except WorkerLost:  # gone again, or nothing is wanted any more
            return None
        except (QuantcoreError, ValueError) as error:
            self._refuse(at, f"says nothing usable of itself ({error})")
            return None
        differing = [] if self._options.any_versions else told.differs(self._mine)
        if differing:
            self._refuse(at, "; ".join(differing))
            return None
        seat = Seat(at, told)
        with self.changed:
            self.board.seats[at.id] = seat
            self.changed.notify_all()
        return seat

    def _refuse(self, at: WorkerAt, why: str) -> None:
        with self.changed:
            late = bool(self.board.seats)
            self._refused[at.name] = why
            self.changed.notify_all()
        if late:
            note(f"worker {at.name} is given no work: {why}")

    def _next(self, seat: Seat) -> Share | None:
        """What a worker does next; None once it is gone."""
        with self.changed:
            while seat.there and not self.is_over():
                share = self.board.next(seat)
                if share is not None:
                    return share
                self.changed.wait()
        return None
