"""Where jobs run: the contract, and the executor that takes processes of this machine."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from quantcore.errors import BackendError
from quantcore.runtime.jobs import Finish, Job, Running, Runtime
from quantcore.runtime.progress import Progress
from quantcore.runtime.store import Store
from quantcore.runtime.threads import share
from quantcore.runtime.worker import Worker


class Executor(ABC):
    """Runs jobs somewhere; a context manager."""

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
        self._processes = processes
        self._pool = ThreadPoolExecutor(processes, thread_name_prefix="quantcore-job")
        self._running: set[Running] = set()
        self._lock = threading.Lock()

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


@contextlib.contextmanager
def kept_in(
    folder: Path, progress: Progress | None = None, executor: Executor | None = None
) -> Iterator[Runtime]:
    """A runtime that keeps finished work in a folder, for the time of one study.

    Args:
        folder: Of the study's output; holds `work.sqlite`.
        progress: Where jobs report.
        executor: Where jobs run; None for fresh processes of this machine.

    Raises:
        OutputError: The folder cannot be written to.
    """
    with Store(folder) as store, executor or LocalExecutor() as runs:
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
