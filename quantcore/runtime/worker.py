"""Running one job in a process of its own: honest peak memory, and a crash that harms nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from quantcore.errors import BackendError, QuantcoreError
from quantcore.runtime.progress import Progress

R = TypeVar("R")


@dataclass(frozen=True)
class Finished(Generic[R]):
    """What a job returned, and the peak resident memory of its process in MB (10**6 bytes)."""

    result: R
    peak_rss_mb: float


def run_apart(job: Callable[..., R], *arguments: Any, progress: Progress, what: str) -> Finished[R]:
    """Runs `job(*arguments, progress)` in a fresh Python process.

    Frameworks then cannot disturb each other or this process, and the peak memory is theirs alone.

    Args:
        job: A function of a module; it and its arguments are pickled.
        arguments: Before the progress.
        progress: Where the job's progress is shown.
        what: Names the job in errors.

    Raises:
        QuantcoreError: As the job raised it.
        BackendError: The process died; tells the signal.
    """
    # Not fork: frameworks with threads do not survive it.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(sender, job, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        message = _relay(receiver, progress)
        process.join()
    finally:
        if process.is_alive():
            process.terminate()
            process.join()
        receiver.close()
    if message is None:
        raise BackendError(f"{what}: the process died {_cause(process.exitcode)}")
    kind, value, peak = message
    if kind == "error":
        raise value
    return Finished(cast(R, value), peak)


def peak_rss_mb() -> float:
    """Highest resident memory of this process so far, in MB."""
    with contextlib.suppress(OSError):
        # getrusage would also count the parent's memory, which a spawned process starts from.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _relay(
    receiver: multiprocessing.connection.Connection, progress: Progress
) -> tuple[str, Any, float] | None:
    """Shows the child's progress until its result comes; None when it dies without one."""
    tasks: dict[int, int] = {}
    try:
        while True:
            try:
                kind, *rest = receiver.recv()
            except EOFError:
                return None
            if kind == "start":
                number, description, total = rest
                tasks[number] = progress.start(description, total)
            elif kind == "advance":
                progress.advance(tasks[rest[0]])
            elif kind == "stop":
                progress.stop(tasks.pop(rest[0]))
            else:
                return kind, rest[0], rest[1]
    finally:
        for task in tasks.values():
            progress.stop(task)


class _Sent(Progress):
    """Sends progress to the parent."""

    def __init__(self, sender: multiprocessing.connection.Connection) -> None:
        self._sender = sender
        self._next = 0

    def start(self, description: str, total: int | None) -> int:
        self._next += 1
        self._sender.send(("start", self._next, description, total))
        return self._next

    def advance(self, task: int) -> None:
        self._sender.send(("advance", task))

    def stop(self, task: int) -> None:
        self._sender.send(("stop", task))


def _main(
    sender: multiprocessing.connection.Connection, job: Callable[..., Any], arguments: Any
) -> None:
    """The child process."""
    # Ctrl-C reaches the whole group; the parent ends the child, which then has nothing to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        try:
            result = job(*arguments, _Sent(sender))
            sender.send(("done", result, peak_rss_mb()))
        except QuantcoreError as error:
            sender.send(("error", _picklable(error), peak_rss_mb()))
    sender.close()


def _picklable(error: QuantcoreError) -> QuantcoreError:
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a plugin's own error class with other constructor arguments
        return BackendError(str(error))
    return error


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return f"of signal {signal.Signals(-code).name}; see its output above"
    return f"with exit code {code}; see its output above"
