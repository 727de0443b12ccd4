"""Runs jobs on the workers of a link: cut into shares, placed, retried, taken in."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from quantcore.errors import BackendError, ExecutorError, QuantcoreError
from quantcore.executors.cluster import post
from quantcore.executors.cluster.board import Seat, Share, Task
from quantcore.executors.cluster.crew import ClusterOptions, Crew, Outcomes
from quantcore.executors.cluster.link import Link
from quantcore.executors.cluster.order import Glance, Report
from quantcore.executors.cluster.parcel import Parts, packed_job
from quantcore.executors.cluster.shares import Cost, cut
from quantcore.runtime.codec import decoded
from quantcore.runtime.executor import Executor, here
from quantcore.runtime.jobs import Finish, Job, Needs, Running
from quantcore.runtime.notes import note
from quantcore.runtime.progress import Progress
from quantcore.showing import one_line

#: Seconds from which on a job whose data lie here is sent to a worker all the same.
_LONG = 2.0


class ClusterExecutor(Executor, Outcomes):
    """Runs jobs on the workers of a link; jobs whose data lie here are done here.

    One thread for each worker takes what is next for it, sends it and takes in what comes back.

    Attributes:
        done: Shares that came back whole.
        failed: Jobs that ended with an error, or were cancelled.
        retried: Shares that are done again because a worker or its process died.
    """

    def __init__(self, link: Link, options: ClusterOptions | None = None) -> None:
        """Waits for the first worker.

        Raises:
            ExecutorError: There is none, or workers have other versions than this process.
        """
        self._link, self._options = link, options or ClusterOptions()
        self._at_hand = threading.Lock()
        self._tasks: list[Task] = []
        self._costs: dict[str, Cost] = {}
        self.done = self.failed = self.retried = 0
        self._able_since = time.monotonic()
        self._crew = Crew(link, self._options, self)
        self._board, self._changed = self._crew.board, self._crew.changed
        try:
            self._crew.begin()
        except BaseException:
            self.close()
            raise

    @property
    def width(self) -> int:  # type: ignore[override]
        """See Executor; every worker has something to do while others end."""
        with self._changed:
            return 2 * max(1, len(self._board.seats))

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
        for each in needs:
            self._check(each, "")

    def _check(self, needs: Needs, root: str) -> None:
        """Raises ExecutorError where workers are there, and none can do a job or see its files."""
        with self._changed:
            if self._board.seats and not self._board.able(needs, root):
                raise self._unable(needs, root)

    def _unable(self, needs: Needs, root: str) -> ExecutorError:
        reasons: dict[str, list[str]] = {}
        for seat in self._board.seats.values():
            lacks, why = seat.told.lacks(needs), seat.blind.get(root)
            if lacks:
                reasons.setdefault(f"no {', no '.join(lacks)}", []).append(seat.at.name)
            elif why is not None:
                reasons.setdefault(f"no access to {root} ({why})", []).append(seat.at.name)
        told = "; ".join(f"{', '.join(who)}: {why}" for why, who in reasons.items())
        return ExecutorError(f"no worker can do this: {told or 'none is left'}")

    def submit(self, job: Job[Any], finish: Finish, progress: Progress) -> Running:
        """See Executor."""
        running = Running()
        running.set_running_or_notify_cancel()
        try:
            if job.at_hand and not self._is_long(job):
                self._here(job, finish, progress, running)
            else:
                root = os.path.commonpath({path.parent for path in job.reads}) if job.reads else ""
                self._crew.check()
                self._check(job.needs, root)
                self._enter(self._task(job, root, finish, progress, running))
        except Exception as error:
            running.set_exception(error)
        return running

    def _is_long(self, job: Job[Any]) -> bool:
        """Whether a job whose data lie here takes so long that sending them is worth it."""
        cost = self._costs.get(job.kind)
        return self.width > 2 and cost is not None and cost.piece > _LONG

    def _here(self, job: Job[Any], finish: Finish, progress: Progress, running: Running) -> None:
        """Does a job in this thread, one at a time: they compute in Python."""
        with self._at_hand:
            began = time.monotonic()
            here(job, finish, progress, running)
            seconds = time.monotonic() - began
        self._costs[job.kind] = Cost(piece=seconds / max(len(job.pieces), 1))
        running.set_result(None)

    def _task(
        self, job: Job[Any], root: str, finish: Finish, progress: Progress, running: Running
    ) -> Task:
        parts: Parts = {}
        name = packed_job(job, parts)
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
            for numbers in cut(job.pieces, able, self._costs.get(job.kind)):
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
            self.failed += error is not None
            self._changed.notify_all()
        task.progress.stop(task.bar)
        if error is None and task.running.cancelled_midway.is_set():
            error = BackendError(f"{task.job.what}: cancelled")
        if error is not None:
            task.running.set_exception(error)
        else:
            task.running.set_result(None)

    def looked(self) -> None:
        """See Outcomes: ends what nobody can do, and shows what all workers do."""
        with self._changed:
            stuck = self._stuck()
        for task, why in stuck:
            self._over(task, why)
        with self._changed:
            seats = [seat for seat in self._board.seats.values() if seat.there]
            running = sum(seat.share is not None for seat in seats)
            told = (
                f"on {len(seats)} workers {self.done} parts done, {running} running, "
                f"{len(self._board.waiting)} waiting, {self.failed} failed, {self.retried} again"
                f"{self._left()}"
            )
            lines = dict.fromkeys(self._tasks, "")
            for seat in seats:
                if seat.doing and seat.share is not None and seat.share.task in lines:
                    lines[seat.share.task] = seat.doing
        for number, (task, doing) in enumerate(lines.items()):
            words = filter(None, (doing, "" if number else told))
            with contextlib.suppress(KeyError):  # over meanwhile
                task.progress.tell(task.bar, "; ".join(words))

    def _left(self) -> str:
        """How long what waits and runs will take, in words; empty while a kind of it is new."""
        shares = [seat.share for seat in self._board.seats.values() if seat.share is not None]
        seconds = 0.0
        for share in (*shares, *self._board.waiting):
            cost = self._costs.get(share.task.job.kind)
            if cost is None:
                return ""
            seconds += cost.start + cost.piece * (len(share.numbers) - len(share.taken))
        return f", {seconds / max(len(self._board.seats), 1):.0f} s left"

    def unsent(self, share: Share, error: Exception) -> None:
        """See Outcomes."""
        self._over(share.task, _of_ours(error))

    def lost(self, error: ExecutorError) -> None:
        """See Outcomes."""
        with self._changed:
            tasks = list(self._tasks)
        for task in tasks:
            self._over(task, error)

    def _stuck(self) -> list[tuple[Task, ExecutorError]]:
        """Jobs that no worker can do any more."""
        stuck = {
            share.task: self._unable(share.task.job.needs, share.task.root)
            for share in self._board.waiting
            if not self._board.able(share.task.job.needs, share.task.root)
        }
        now = time.monotonic()
        if not stuck:
            self._able_since = now
        if now - self._able_since < self._options.wait:
            return []
        return list(stuck.items())

    def glanced(self, seat: Seat, share: Share, glance: Glance) -> None:
        """See Outcomes: what is finished is kept at once."""
        seat.doing = glance.doing
        self._take(share, glance.pieces)

    def _take(self, share: Share, pieces: Iterable[tuple[int, bytes]]) -> bool:
        """Keeps pieces of a share; whether that went well."""
        task = share.task
        try:
            for place, content in pieces:
                if place not in share.taken:
                    number = share.numbers[place]
                    task.finish(number, decoded(content, task.job.pieces[number].kind))
                    task.progress.advance(task.bar)
                    share.taken.add(place)
        except Exception as error:
            self._over(task, _of_ours(error))
            return False
        return True

    def came_back(self, seat: Seat, share: Share, report: Report) -> None:
        """See Outcomes: keeps what a share has brought, and does what else its end asks for."""
        task = share.task
        if not self._take(share, report.pieces):
            return
        left = share.rest()
        if report.error is not None and report.error[0] == "Unreachable":
            self._blind(seat, share, report.error[1])
        elif report.error is not None:
            self._over(task, post.error_of(report.error))
        elif report.died is not None:
            self.died(seat, share, report.died)
        elif left:
            self._over(task, BackendError(f"{task.job.what}: {len(left)} pieces missing"))
        else:
            self._learn(task.job, report)
            self._whole(share)

    def _whole(self, share: Share) -> None:
        """A share is done, and its job where it was the last one."""
        task = share.task
        with self._changed:
            task.open -= 1
            self.done += 1
            last = not task.open
        if last:
            self._over(task, None)

    def _learn(self, job: Job[Any], report: Report) -> None:
        """Notes what jobs of this kind take, for the next one's shares and the time left."""
        count = report.finished
        if count > 1:
            piece = (report.seconds - report.first) / (count - 1)
            self._costs[job.kind] = Cost(max(report.first - piece, 1e-3), piece)
        elif job.kind not in self._costs:
            self._costs[job.kind] = Cost(piece=report.seconds)

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
            error = None if left else self._unable(task.job.needs, task.root)
        if error is not None:
            self._over(task, error)

    def died(self, seat: Seat, share: Share, why: str) -> None:
        """See Outcomes; also where only its process died: another worker does it."""
        task = share.task
        if self._crew.is_over() or task.over:
            return
        if not share.rest():  # all of it had come before
            self._whole(share)
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
            tasks = list(self._tasks)
        for task in tasks:
            self._over(task, BackendError(f"{task.job.what}: cancelled"))
        self._crew.close()


def _of_ours(error: Exception) -> QuantcoreError:
    if isinstance(error, QuantcoreError):
        return error
    return ExecutorError(one_line(f"{type(error).__name__}: {error}", 300))
