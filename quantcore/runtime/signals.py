"""How a command ends on SIGINT and SIGTERM: cleaned up, with one line and the exit code of shells.

Both raise `Stopped` in the main thread, so that every `finally` and every context manager on the
way out ends its processes and removes its files. It is no `KeyboardInterrupt`, which libraries
catch. A thread watches meanwhile: what has not ended in a few seconds, as a long call into an
engine, is ended, and so is everything at the second signal. Nothing heavy is imported here, for
the command line listens before it imports itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from quantcore.errors import QuantcoreError
from quantcore.showing import for_terminal, one_line

#: Seconds to clean up in.
GRACE = 8.0

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked this process to end.

    Attributes:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Held:
    """Signals that came while they were held off."""

    depth = 0
    number: int | None = None
    #: The last one that came at all.
    came: int | None = None


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Lets a short piece of work finish before a signal ends it; other threads get no signals."""
    if not _in_main_thread():
        yield
        return
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
        number = _Held.number
        if number is not None and not _Held.depth:
            _Held.number = None
            raise Stopped(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_listening() -> bool:
    return _in_main_thread() and signal.getsignal(signal.SIGTERM) is _stop


def _stop(number: int, _: FrameType | None) -> None:
    _Held.came = number
    if _Held.depth:
        _Held.number = number
        return
    raise Stopped(number)


@contextlib.contextmanager
def ending(last: bool = False) -> Iterator[None]:
    """Around a command: turns signals and failures of the machine into one line and an exit code.

    Inside of another one it does nothing.

    Args:
        last: The process does nothing else afterwards, and is ended where it does not end.

    Raises:
        SystemExit: With 128 and the signal's number; with 2 for quantcore's own errors, and where
            memory or disk ran out.
    """
    if _is_listening():  # the outer one says it, once
        yield
        return
    with _listening(last):
        try:
            yield
            sys.stdout.flush()
        except BaseException as error:
            number = error.number if isinstance(error, Stopped) else _Held.came
            if number is not None:  # a library may have made another error of it
                _say(f"stopped by {signal.Signals(number).name}")
                raise SystemExit(128 + number) from None
            line = _told(error)
            if line is None:
                raise
            _say(line)
            raise SystemExit(2) from None


def _told(error: BaseException) -> str | None:
    """The line for what went wrong outside of quantcore's hands, or on purpose; else None."""
    if isinstance(error, QuantcoreError):
        return f"error: {error}"
    if isinstance(error, MemoryError):
        return "error: there is not enough memory for this"
    if not isinstance(error, OSError):
        return None
    _close_output()
    if error.errno == errno.EPIPE:  # nobody reads on: `quantcore list | head -1`
        return ""
    where = f"{error.filename}: " if error.filename else ""
    return one_line(f"error: {where}{error.strerror or error}")


@contextlib.contextmanager
def _listening(last: bool) -> Iterator[None]:
    if not _in_main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(reading, over), daemon=True).start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _stop) for number in _NUMBERS}
    try:
        yield
    finally:
        _Held.came = None
        if not last:
            over.set()
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        os.close(writing)  # which ends the watch


def _watch(reading: int, over: threading.Event) -> None:
    """Ends a process that does not end by itself; a signal writes its number to the pipe."""
    number = _next(reading)
    if number:
        threading.Thread(target=_end_after, args=(number, GRACE, over), daemon=True).start()
        if _next(reading):
            _end_after(number, 0, over)
    os.close(reading)


def _next(reading: int) -> int:
    while True:
        found = os.read(reading, 1)
        if not found or found[0] in _NUMBERS:
            return found[0] if found else 0


def _end_after(number: int, seconds: float, over: threading.Event) -> None:
    if over.wait(seconds):
        return
    _say(f"stopped by {signal.Signals(number).name}")
    os._exit(128 + number)


def _say(line: str) -> None:
    if not line:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(for_terminal(line, sys.stderr) + "\n")
        sys.stderr.flush()


def _close_output() -> None:
    """Leaves nothing that the interpreter would try to write when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
