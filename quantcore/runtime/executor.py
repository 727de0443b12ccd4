"""Where jobs run: the contract, and the executor that takes processes of this machine."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from quantcore.errors import BackendError
from quantcore.runtime.host import host
from quantcore.runtime.jobs import Finish, Job, Needs, Running, Runtime
from quantcore.runtime.progress import Progress
from quantcore.runtime.store import Store
from quantcore.runtime.threads import share
from quantcore.runtime.worker import Worker


class Executor(ABC):
    """Runs jobs somewhere; a context manager.

    Attributes:
        width: Jobs that are worth having under way at a time.
    """

    width = 1

    @abstractmethod
    def submit(self, job: Job[Any], finish: Finish, progress: Progress) -> Running:
        """Starts a job, at once or when there is room.

        Args:
            job: What to run.
            finish: Is called with each piece as soon as it is finished, from any thread; what it
                raises ends the job.
            progress: Where the job's progress is shown.

        Returns:
            A future that ends once every piece was handed to `finish`, or with the job's error.
        """

    def describe(self) -> str:
        """For people: where jobs run, and where that can be watched; empty for here."""
        return ""

    def host(self, needs: Needs) -> Mapping[str, object]:
        """The machine that quiet pieces run on: times are kept and shown with it.

        Args:
            needs: Of the job.

        Raises:
            ExecutorError: No machine has what the job needs.
        """
        return host()

    def check(self, needs: Iterable[Needs]) -> None:
        """Refuses what no machine can do, before any work.

        Args:
            needs: Of each job of a study.

        Raises:
            ExecutorError: No machine has what one of the jobs needs.
        """
        return

    @abstractmethod
    def close(self) -> None:
        """Ends whatever still runs; safe to call twice."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LocalExecutor(Executor):
    """Runs jobs on this machine: those that need it in fresh processes, others in threads here.

    Args:
        processes: Jobs that run beside each other; they share the cores.
    """

    def __init__(self, processes: int = 1) -> None:
        self._processes = self.width = processes
        self._pool = ThreadPoolExecutor(processes, thread_name_prefix="quantcore-job")
        self._running: set[Running] = set()
        self._lock = threading.Lock()
        self._quiet = _Quiet()

    def submit(self, job: Job[Any], finish: Finish, progress: Progress) -> Running:
        """See Executor."""
        running = Running()
        with self._lock:
            self._running.add(running)
        self._pool.submit(self._run, job, finish, progress, running)
        return running

    def _run(self, job: Job[Any], finish: Finish, progress: Progress, running: Running) -> None:
        try:
            if running.set_running_or_notify_cancel():
                with self._quiet.beside(any(piece.quiet for piece in job.pieces)):
                    if job.apart:
                        self._apart(job, finish, progress, running)
                    else:
                        here(job, finish, progress, running)
                running.set_result(None)
        except BaseException as error:
            running.set_exception(error)
        finally:
            with self._lock:
                self._running.discard(running)

    def _apart(self, job: Job[Any], finish: Finish, progress: Progress, running: Running) -> None:
        with Worker(job.what, share(self._processes, job.threads)) as worker:
            running.when_cancelled(worker.close)
            wanted = tuple(piece.about for piece in job.pieces)
            try:
                for found in worker.run(job.function, *job.arguments, wanted, progress=progress):
                    finish(*found)
            except (BackendError, OSError):
                if running.cancelled_midway.is_set():
                    raise BackendError(f"{job.what}: cancelled") from None
                raise

    def close(self) -> None:
        """See Executor."""
        with self._lock:
            left = tuple(self._running)
        for running in left:
            running.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Quiet:
    """Lets jobs run beside each other, and those that measure time alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0

    @contextlib.contextmanager
    def beside(self, alone: bool) -> Iterator[None]:
        """For the time of a job; `alone` waits for the others, which wait for it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running if alone else self._running >= 0)
            self._running = -1 if alone else self._running + 1
        try:
            yield
        finally:
            with self._changed:
                self._running = 0 if alone else self._running - 1
                self._changed.notify_all()


@contextlib.contextmanager
def kept_in(
    folder: Path, progress: Progress | None = None, executor: Executor | None = None
) -> Iterator[Runtime]:
    """A runtime that keeps finished work in a folder, for the time of one study.

    Args:
        folder: Of the study's output; holds `work.sqlite`.
        progress: Where jobs report.
        executor: Where jobs run, which stays open; None for fresh processes of this machine.

    Raises:
        OutputError: The folder cannot be written to.
    """
    own = contextlib.nullcontext(executor) if executor is not None else LocalExecutor()
    with Store(folder) as store, own as runs:
        yield Runtime(runs, store, progress)


class InProcess(Executor):
    """Runs every job at once, in the calling thread; what the Python API does by default."""

    def submit(self, job: Job[Any], finish: Finish, progress: Progress) -> Running:
        """See Executor."""
        running = Running()
        running.set_running_or_notify_cancel()
        try:
            here(job, finish, progress, running)
        except Exception as error:
            running.set_exception(error)
        else:
            running.set_result(None)
        return running

    def close(self) -> None:
        """See Executor."""


def here(job: Job[Any], finish: Finish, progress: Progress, running: Running) -> None:
    """Runs a job in this thread until it is done or cancelled."""
    wanted = tuple(piece.about for piece in job.pieces)
    found = job.function(*job.arguments, wanted, progress)
    with contextlib.closing(found):  # type: ignore[type-var] # a generator
        for number, value in found:
            finish(number, value)
            if running.cancelled_midway.is_set():
                raise BackendError(f"{job.what}: cancelled")
