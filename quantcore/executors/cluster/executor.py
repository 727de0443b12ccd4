"""Runs jobs on the workers of a link: cut into shares, placed, retried, taken in."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quantcore.errors import BackendError, ExecutorError, QuantcoreError
from quantcore.executors.cluster import post
from quantcore.executors.cluster.announced import announced
from quantcore.executors.cluster.board import Board, Seat, Share, Task
from quantcore.executors.cluster.exchange import Exchange
from quantcore.executors.cluster.files import Mapped
from quantcore.executors.cluster.link import Link, WorkerAt, WorkerLost
from quantcore.executors.cluster.order import Report
from quantcore.executors.cluster.parcel import Parts, name_of, packed
from quantcore.executors.cluster.shares import Cost, cut
from quantcore.runtime.codec import decoded
from quantcore.runtime.executor import Executor, here
from quantcore.runtime.jobs import Finish, Job, Needs, Running
from quantcore.runtime.notes import note
from quantcore.runtime.progress import Progress
from quantcore.showing import one_line

#: Seconds between two looks at which workers are there.
_LOOK = 0.5


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


class ClusterExecutor(Executor):
    """Runs jobs on the workers of a link; jobs whose data lie here are done here.

    One thread for each worker takes what is next for it, sends it and takes in what comes back.
    """

    def __init__(self, link: Link, options: ClusterOptions | None = None) -> None:
        """Waits for the first worker.

        Raises:
            ExecutorError: There is none, or workers have other versions than this process.
        """
        self._link, self._options = link, options or ClusterOptions()
        self._board, self._changed = Board(), threading.Condition()
        self._exchange = Exchange(link, self._options.mapped, self._is_over)
        self._tasks: list[Task] = []
        self._costs: dict[str, Cost] = {}
        self._refused: dict[str, str] = {}
        self._greeted: set[str] = set()
        self._closed, self.retried = False, 0
        self._lost: ExecutorError | None = None
        self._able_since = time.monotonic()
        self._mine = announced(1, None)
        self._watcher = threading.Thread(target=self._watch, name="quantcore-workers", daemon=True)
        self._watcher.start()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _is_over(self) -> bool:
        return self._closed or self._lost is not None

    def _begin(self) -> None:
        """Waits until every worker that is there has said what it is."""
        with self._changed:
            ready = self._changed.wait_for(self._all_known, self._options.wait)
            if self._lost is not None:
                raise self._lost
            if self._refused and not self._options.any_versions:
                told = "; ".join(f"{who}: {why}" for who, why in sorted(self._refused.items()))
                raise ExecutorError(
                    f"workers with other versions than here: {told}; install the same, or allow "
                    "it (--executor-option any-versions=true)"
                )
            if not ready or not self._board.seats:
                raise ExecutorError(
                    f"no worker came within {self._options.wait:.0f} s; start some, or wait longer "
                    "(--executor-option wait=SECONDS)"
                )

    def _all_known(self) -> bool:
        known = len(self._board.seats) + len(self._refused)
        return self._lost is not None or (known > 0 and known >= len(self._greeted))

    def describe(self) -> str:
        """For people: how many workers there are, and where they can be watched."""
        with self._changed:
            count = sum(seat.there for seat in self._board.seats.values())
        return f"{count} workers; {self._link.describe()}"

    def host(self, needs: Needs) -> Mapping[str, object]:
        """See Executor."""
        with self._changed:
            found = self._board.hardware(needs)
        if found is None:
            self.check([needs])
            raise ExecutorError("no worker is left; what is finished is kept, start again")
        return found

    def check(self, needs: Iterable[Needs]) -> None:
        """See Executor."""
        with self._changed:
            for each in needs:
                if self._board.seats and not self._board.able(each):
                    raise self._unable(each)

    def _unable(self, needs: Needs) -> ExecutorError:
        lacks = "; ".join(
            f"{seat.at.name} has no {', no '.join(seat.told.lacks(needs))}"
            for seat in self._board.seats.values()
            if seat.there
        )
        return ExecutorError(f"no worker can do this: {lacks or 'none is left'}")

    def submit(self, job: Job[Any], finish: Finish, progress: Progress) -> Running:
        """See Executor."""
        running = Running()
        running.set_running_or_notify_cancel()
        try:
            if job.at_hand:
                here(job, finish, progress, running)
                running.set_result(None)
            else:
                root = os.path.commonpath(job.reads) if job.reads else ""
                self.check([job.needs])
                self._check_sees(job.needs, root)
                self._enter(self._task(job, root, finish, progress, running))
        except Exception as error:
            running.set_exception(error)
        return running

    def _check_sees(self, needs: Needs, root: str) -> None:
        with self._changed:
            seats = self._board.able(needs)
            if seats and all(root in seat.blind for seat in seats):
                why = seats[0].blind[root]
                raise ExecutorError(f"no worker can read {root}: {why}")

    def _task(
        self, job: Job[Any], root: str, finish: Finish, progress: Progress, running: Running
    ) -> Task:
        parts: Parts = {}
        content = packed((job.function, job.arguments), job.reads, parts)
        name = name_of(content)
        parts[name] = content
        bar = progress.start(job.what, len(job.pieces))
        return Task(
            job=job,
            name=name,
            parts=parts,
            finish=finish,
            running=running,
            progress=progress,
            bar=bar,
            root=root,
        )

    def _enter(self, task: Task) -> None:
        """Cuts a job into shares, which wait from now on."""
        job = task.job
        with self._changed:
            able = len(self._board.able(job.needs, task.root))
            for numbers in cut(job.pieces, able, self._costs.get(_kind(job))):
                quiet = any(job.pieces[number].quiet for number in numbers)
                self._board.waiting.append(Share(task, numbers, quiet))
                task.open += 1
            if any(piece.quiet for piece in job.pieces):
                self._board.hardware(job.needs)
            self._tasks.append(task)
            self._changed.notify_all()
        task.running.when_cancelled(lambda: self._over(task, None))

    def _over(self, task: Task, error: BaseException | None) -> None:
        """A job is done, has failed or is cancelled; what it still has under way is not wanted."""
        with self._changed:
            if task not in self._tasks:
                return
            self._tasks.remove(task)
            self._board.drop(task)
            self._changed.notify_all()
        task.progress.stop(task.bar)
        if error is None and task.running.cancelled_midway.is_set():
            error = BackendError(f"{task.job.what}: cancelled")
        if error is not None:
            task.running.set_exception(error)
        else:
            task.running.set_result(None)

    def _watch(self) -> None:
        """Sees workers come and go."""
        while not self._closed:
            try:
                found = self._link.workers()
            except ExecutorError as error:
                self._give_up(error)
                return
            with self._changed:
                for id in self._board.seats.keys() - found.keys():
                    self._board.seats.pop(id).there = False
                self._greeted &= found.keys()
                for id, at in found.items():
                    if id not in self._greeted:
                        self._greeted.add(id)
                        threading.Thread(target=self._attend, args=(at,), daemon=True).start()
                self._changed.notify_all()
                stuck = self._stuck()
            for task, why in stuck:
                self._over(task, why)
            time.sleep(_LOOK)

    def _give_up(self, error: ExecutorError) -> None:
        with self._changed:
            self._lost = error
            tasks = list(self._tasks)
            self._changed.notify_all()
        for task in tasks:
            self._over(task, error)

    def _stuck(self) -> list[tuple[Task, ExecutorError]]:
        """Jobs that no worker can do any more."""
        stuck = {
            share.task: self._unable(share.task.job.needs)
            for share in self._board.waiting
            if not self._board.able(share.task.job.needs, share.task.root)
        }
        now = time.monotonic()
        if not stuck:
            self._able_since = now
        if now - self._able_since < self._options.wait:
            return []
        return list(stuck.items())

    def _attend(self, at: WorkerAt) -> None:
        """One worker from its coming to its going."""
        try:
            told = self._exchange.greet(at)
        except (QuantcoreError, ValueError) as error:
            self._refuse(at, f"says nothing usable of itself ({error})")
            return
        differing = [] if self._options.any_versions else told.differs(self._mine)
        if differing:
            self._refuse(at, "; ".join(differing))
            return
        seat = Seat(at, told)
        with self._changed:
            self._board.seats[at.id] = seat
            self._changed.notify_all()
        while (share := self._next(seat)) is not None:
            try:
                report = self._exchange.send(seat, share)
            except WorkerLost:
                self._died(seat, share, "it was lost")
            except Exception as error:
                self._over(share.task, _of_ours(error))
            else:
                self._take_in(seat, share, report)
            with self._changed:
                self._board.ended(seat)
                self._changed.notify_all()
        with self._changed:
            self._board.ended(seat)

    def _refuse(self, at: WorkerAt, why: str) -> None:
        with self._changed:
            late = bool(self._board.seats)
            self._refused[at.name] = why
            self._changed.notify_all()
        if late:
            note(f"worker {at.name} is given no work: {why}")

    def _next(self, seat: Seat) -> Share | None:
        """What a worker does next; None once it is gone."""
        with self._changed:
            while seat.there and not self._is_over():
                share = self._board.next(seat)
                if share is not None:
                    return share
                self._changed.wait()
        return None

    def _take_in(self, seat: Seat, share: Share, report: Report) -> None:
        """Keeps what a share has brought, and does what else its end asks for."""
        task, done = share.task, set()
        try:
            for place, content in report.pieces:
                number = share.numbers[place]
                task.finish(number, decoded(content, task.job.pieces[number].kind))
                task.progress.advance(task.bar)
                done.add(number)
        except Exception as error:
            self._over(task, _of_ours(error))
            return
        share.numbers = [number for number in share.numbers if number not in done]
        if report.error is not None and report.error[0] == "Unreachable":
            self._blind(seat, share, report.error[1])
        elif report.error is not None:
            self._over(task, post.error_of(report.error))
        elif report.died is not None:
            self._died(seat, share, report.died)
        elif share.numbers:
            self._over(task, BackendError(f"{task.job.what}: {len(share.numbers)} pieces missing"))
        else:
            self._learn(task.job, report)
            with self._changed:
                task.open -= 1
                last = not task.open
            if last:
                self._over(task, None)

    def _learn(self, job: Job[Any], report: Report) -> None:
        """Notes what jobs of this kind take, for the next one's shares."""
        count = len(report.pieces)
        if count > 1:
            piece = (report.seconds - report.first) / (count - 1)
            self._costs[_kind(job)] = Cost(max(report.first - piece, 1e-3), piece)

    def _blind(self, seat: Seat, share: Share, why: str) -> None:
        """A worker cannot read a job's files: others do the job."""
        task = share.task
        with self._changed:
            first = task.root not in seat.blind
            seat.blind[task.root] = why
            left = self._board.able(task.job.needs, task.root)
            if left:
                self._board.waiting.insert(0, share)
                self._changed.notify_all()
        if first:
            note(f"worker {seat.at.name} is given no work on {task.root}: {why}")
        if not left:
            self._over(task, ExecutorError(f"no worker can read {task.root}: {why}"))

    def _died(self, seat: Seat, share: Share, why: str) -> None:
        """A worker, or its process, died in the middle of a share: another one does it."""
        task = share.task
        if self._is_over() or task.over:
            return
        share.died.append(seat.at.name)
        if len(share.died) >= self._options.deaths:
            who = ", ".join(share.died)
            told = f"{task.job.what}: given up after {len(share.died)} workers died of it ({who})"
            self._over(task, ExecutorError(one_line(f"{told}; the last: {why}", 600)))
            return
        with self._changed:
            self.retried += 1
            self._board.waiting.insert(0, share)
            self._changed.notify_all()
        note(f"worker {seat.at.name}: {task.job.what} is done again elsewhere ({why})")

    def close(self) -> None:
        """See Executor."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            tasks = list(self._tasks)
            self._changed.notify_all()
        for task in tasks:
            self._over(task, BackendError(f"{task.job.what}: cancelled"))
        self._watcher.join()
        self._link.close()


def _kind(job: Job[Any]) -> str:
    """Jobs that take alike."""
    return f"{job.function.__module__}.{job.function.__qualname__} {job.needs}"


def _of_ours(error: Exception) -> QuantcoreError:
    if isinstance(error, QuantcoreError):
        return error
    return ExecutorError(one_line(f"{type(error).__name__}: {error}", 300))
