"""Which share goes to which worker: what waits, who is able, what must run alone. No threads here.

Every rule about placing work is in `Board.next`; `ClusterExecutor` asks it whenever a worker is
idle, under its lock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcore.executors.cluster.announced import Announced
from quantcore.executors.cluster.link import WorkerAt
from quantcore.runtime.jobs import Finish, Job, Needs, Running
from quantcore.runtime.progress import Progress


@dataclass(eq=False)
class Task:
    """A job under way.

    Attributes:
        job: The job.
        name: Of the part with its function and arguments.
        parts: All parts of the job, by name.
        finish: Takes its pieces.
        running: Its future.
        progress: Where it reports.
        bar: Its number there.
        root: The folder of the files that it reads.
        open: Shares that are not done.
    """

    job: Job[Any]
    name: str
    parts: dict[str, bytes]
    finish: Finish
    running: Running
    progress: Progress
    bar: int
    root: str
    open: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing of it is wanted any more."""
        return self.running.done() or self.running.cancelled_midway.is_set()


@dataclass(eq=False)
class Share:
    """Some pieces of a job that one worker does.

    Attributes:
        task: The job.
        numbers: Of the pieces.
        quiet: Whether nothing else may run on the machine meanwhile.
        died: Names of the workers that died of it.
        taken: Places in `numbers` of the pieces that are here already.
    """

    task: Task
    numbers: list[int]
    quiet: bool
    died: list[str] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)

    def rest(self) -> list[int]:
        """From now on only what is not here yet; the numbers of those pieces."""
        left = [number for place, number in enumerate(self.numbers) if place not in self.taken]
        self.numbers, self.taken = left, set()
        return left


@dataclass(eq=False)
class Seat:
    """A worker as this side sees it.

    Attributes:
        at: Where it is.
        told: What it says of itself.
        there: Whether it is still there.
        share: What it is doing.
        doing: What it says of that.
        kept: Names of the parts that it has.
        blind: Folders whose files it cannot read, and why.
    """

    at: WorkerAt
    told: Announced
    there: bool = True
    share: Share | None = None
    doing: str = ""
    kept: set[str] = field(default_factory=set)
    blind: dict[str, str] = field(default_factory=dict)


class Board:
    """Shares that wait, and the workers for them."""

    def __init__(self) -> None:
        self.waiting: list[Share] = []
        self.seats: dict[str, Seat] = {}
        self._kind: dict[Needs, str] = {}
        self._held: dict[str, tuple[Share, Seat]] = {}
        self._running: set[Seat] = set()

    def able(self, needs: Needs, root: str = "") -> list[Seat]:
        """The workers that have what a job needs and see its files."""
        return [
            seat
            for seat in self.seats.values()
            if seat.there and not seat.told.lacks(needs) and root not in seat.blind
        ]

    def hardware(self, needs: Needs) -> Mapping[str, object] | None:
        """The hardware that quiet pieces run on: of the able workers' the most frequent.

        Once chosen, it stays; None where no worker is able.
        """
        seats = self.able(needs)
        if needs not in self._kind and seats:
            counts = Counter(seat.told.hardware for seat in seats)
            self._kind[needs] = max(sorted(counts), key=lambda kind: counts[kind])
        kind = self._kind.get(needs)
        return next((s.told.host for s in self.seats.values() if s.told.hardware == kind), None)

    def next(self, seat: Seat) -> Share | None:
        """What an idle worker does next, taken off what waits; None for nothing now."""
        machine = seat.told.machine
        if machine in self._held:
            share, chosen = self._held[machine]
            if chosen is not seat or self._busy(machine):
                return None
            return self._take(share, seat)
        for share in self.waiting:
            if not self._may(seat, share):
                continue
            if share.quiet:
                if any(held is share for held, _ in self._held.values()):
                    continue  # waits for another machine to become quiet
                self._held[machine] = share, seat
                if self._busy(machine):
                    return None
            return self._take(share, seat)
        return None

    def ended(self, seat: Seat) -> None:
        """A worker is idle again, or gone."""
        seat.share, seat.doing = None, ""
        self._running.discard(seat)
        self._release(lambda share, chosen: chosen is seat)

    def drop(self, task: Task) -> None:
        """Nothing of a job waits any more."""
        self.waiting = [share for share in self.waiting if share.task is not task]
        self._release(lambda share, chosen: share.task is task and chosen.share is not share)

    def _release(self, over: Any) -> None:
        self._held = {m: held for m, held in self._held.items() if not over(*held)}

    def _may(self, seat: Seat, share: Share) -> bool:
        """Whether a worker may do a share at all."""
        task = share.task
        if seat.told.lacks(task.job.needs) or task.root in seat.blind:
            return False
        if share.quiet and seat.told.hardware != self._kind.get(task.job.needs):
            return False
        if seat.at.name not in share.died:
            return True
        # What died with a worker is done by another one, where there is another one.
        able = self.able(task.job.needs, task.root)
        return all(other.at.name in share.died for other in able)

    def _busy(self, machine: str) -> bool:
        """Whether work runs on a machine, as far as is known: also that of a worker just gone."""
        return any(seat.told.machine == machine for seat in self._running)

    def _take(self, share: Share, seat: Seat) -> Share:
        self.waiting.remove(share)
        seat.share = share
        self._running.add(seat)
        return share
