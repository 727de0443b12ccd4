"""Running one function in a process of its own: honest peak memory, and a crash harms nothing.

The process is a plain Python that is told over a pipe what to run. It does not import the parent's
main module, as `multiprocessing` would: a script, a notebook and standard input need no guard.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from quantcore.errors import BackendError, OutputError, QuantcoreError
from quantcore.runtime.notes import keep_silent
from quantcore.runtime.progress import Progress
from quantcore.runtime.threads import cores, environment

R = TypeVar("R")

#: The path first: quantcore itself may lie on it.
_START = (
    "import sys; sys.path[:] = {path!r}; from quantcore.runtime import worker; worker.main({end})"
)


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
    with Worker(what) as worker:
        (result,) = worker.run(_once, job, *arguments, progress=progress)
        return Finished(result, worker.peak_rss_mb)


def _once(job: Callable[..., R], *given: Any) -> Iterator[R]:
    yield job(*given)


class Worker:
    """A fresh Python process that runs generators for this one; a context manager.

    Attributes:
        peak_rss_mb: Its peak resident memory when it last finished something.
    """

    def __init__(self, what: str, threads: int | None = None, quiet: bool = False) -> None:
        """Starts the process.

        Args:
            what: Names what it does in errors.
            threads: That it may use; None for all cores.
            quiet: Drops what libraries print there.
        """
        self._what, self.peak_rss_mb = what, 0.0
        # Its temporary files lie here, so that nothing is left of a process that is ended.
        self._temporary = tempfile.TemporaryDirectory(prefix="quantcore-")
        here, there = socket.socketpair()
        with there:
            there.set_inheritable(True)
            code = _START.format(path=sys.path, end=there.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                # Its end tells the process that this one is gone, however it went.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=subprocess.DEVNULL if quiet else None,
                pass_fds=[there.fileno()],
                # Ctrl-C on a terminal is for the parent, which ends this process.
                start_new_session=True,
                env={
                    **os.environ,
                    **environment(threads or cores()),
                    "TMPDIR": self._temporary.name,
                },
            )
        self._pipe = Connection(here.detach())

    def run(
        self, function: Callable[..., Iterator[R]], *arguments: Any, progress: Progress
    ) -> Iterator[R]:
        """What `function(*arguments, progress)` yields over there, as it yields it.

        Raises:
            QuantcoreError: As the function raised it.
            BackendError: The process died; tells the signal.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # reading tells how
            self._pipe.send((function, arguments))
        tasks: dict[int, int] = {}
        try:
            while True:
                kind, *rest = self._read()
                if kind == "value":
                    yield rest[0]
                elif kind == "start":
                    number, description, total = rest
                    tasks[number] = progress.start(description, total)
                elif kind == "advance":
                    progress.advance(tasks[rest[0]])
                elif kind == "stop":
                    progress.stop(tasks.pop(rest[0]))
                else:
                    error, self.peak_rss_mb = rest
                    if error is not None:
                        raise error
                    return
        finally:
            for task in tasks.values():
                progress.stop(task)

    def _read(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            died = cause(self._process.wait())
            raise BackendError(f"{self._what}: the process died {died}") from None

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def rss(self) -> int:
        """Bytes of memory that the process holds now; 0 where the system does not tell."""
        with contextlib.suppress(OSError, IndexError):
            pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
            return int(pages) * resource.getpagesize()
        return 0

    def close(self) -> None:
        """Ends the process, whatever it does; safe to call twice and from another thread."""
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._pipe):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._temporary.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cause(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        why = ", as the system ends what takes too much memory" if -code == signal.SIGKILL else ""
        return f"of signal {signal.Signals(-code).name}{why}; see its output above"
    return f"with exit code {code}; see its output above"


def peak_rss_mb() -> float:
    """Highest resident memory of this process so far, in MB."""
    with contextlib.suppress(OSError):
        # getrusage would also count the parent's memory, which a spawned process starts from.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


class SentProgress(Progress):
    """Progress as messages to another process.

    Args:
        send: Takes a message.
    """

    def __init__(self, send: Callable[[tuple[Any, ...]], object]) -> None:
        self._send = send
        self._next = 0

    def start(self, description: str, total: int | None) -> int:
        """See Progress."""
        self._next += 1
        self._send(("start", self._next, description, total))
        return self._next

    def advance(self, task: int) -> None:
        """See Progress."""
        self._send(("advance", task))

    def stop(self, task: int) -> None:
        """See Progress."""
        self._send(("stop", task))


def main(end: int) -> None:
    """The process: runs what it is told until the other side is gone."""
    # Whoever sends it to more than the parent: that ends this process, which has nothing to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_silent()
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    pipe = Connection(end)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, arguments = pipe.recv()
            error: QuantcoreError | None = None
            try:
                for value in function(*arguments, SentProgress(pipe.send)):
                    pipe.send(("value", value))
            except QuantcoreError as raised:
                error = _picklable(raised)
            except MemoryError:
                error = BackendError("the process had not enough memory for this")
            except OSError as raised:
                if raised.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
                    raise
                where = f"{raised.filename}: " if raised.filename else ""
                error = OutputError(f"{where}{raised.strerror}")
            pipe.send(("done", error, peak_rss_mb()))


def _leave_with_the_parent() -> None:
    while os.read(0, 1):
        pass
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)  # where the parent was killed
    os._exit(1)


def _picklable(error: QuantcoreError) -> QuantcoreError:
    error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a plugin's own error class with other constructor arguments
        return BackendError(str(error))
    return error
