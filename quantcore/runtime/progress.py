"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars

from quantcore.showing import one_line

T = TypeVar("T")

#: Characters of a task's description.
_WIDEST = 120


class Progress(ABC):
    """Where long work reports how far it is."""

    @abstractmethod
    def start(self, description: str, total: int | None) -> int:
        """Begins a task and returns its number."""

    @abstractmethod
    def advance(self, task: int) -> None:
        """One step of the task is done."""

    @abstractmethod
    def stop(self, task: int) -> None:
        """The task is over, finished or not."""

    def tell(self, task: int, told: str) -> None:
        """What else there is to say of a task, shown behind its description from now on."""
        return

    def track(
        self, items: Iterable[T], description: str, total: int | None = None
    ) -> Generator[T, None, None]:
        """Yields the items and advances after each; the task is over when it is closed.

        Args:
            items: What is worked on.
            description: A few words for the user.
            total: Number of items, where `items` does not tell it.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        task = self.start(description, total)
        try:
            for item in items:
                yield item
                self.advance(task)
        finally:
            self.stop(task)


class Silent(Progress):
    """Reports nothing; the default of the library functions."""

    def start(self, description: str, total: int | None) -> int:
        """See Progress."""
        return 0

    def advance(self, task: int) -> None:
        """See Progress."""

    def stop(self, task: int) -> None:
        """See Progress."""


class Bars(Progress):
    """Live bars with the time left, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._bars = RichBars(
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[told]}", markup=False, style="dim"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._open, self._lock = 0, threading.Lock()

    def start(self, description: str, total: int | None) -> int:
        """See Progress."""
        with self._lock:
            if not self._open:
                self._bars.start()
            self._open += 1
        return int(self._bars.add_task(one_line(description, _WIDEST), total=total, told=""))

    def advance(self, task: int) -> None:
        """See Progress."""
        self._bars.advance(task)  # type: ignore[arg-type]

    def stop(self, task: int) -> None:
        """See Progress."""
        self._bars.remove_task(task)  # type: ignore[arg-type]
        with self._lock:
            self._open -= 1
            if not self._open:
                self._bars.stop()

    def tell(self, task: int, told: str) -> None:
        """See Progress."""
        self._bars.update(task, told=one_line(told, _WIDEST))  # type: ignore[arg-type]


class Lines(Progress):
    """One line at the start, one every ten seconds, one at the end; for logs and pipes."""

    interval = 10.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[int, tuple[str, int | None, int, float, float]] = {}
        self._told: dict[int, str] = {}
        self._next, self._lock = 0, threading.Lock()

    def start(self, description: str, total: int | None) -> int:
        """See Progress."""
        now = time.monotonic()
        with self._lock:
            self._next += 1
            self._tasks[self._next] = (one_line(description, _WIDEST), total, 0, now, now)
            return self._next

    def advance(self, task: int) -> None:
        """See Progress."""
        with self._lock:
            description, total, done, began, last = self._tasks[task]
            done, now = done + 1, time.monotonic()
            due = now - last >= self.interval
            self._tasks[task] = (description, total, done, began, now if due else last)
        if due:
            of = f"/{total}" if total else ""
            left = f", {(now - began) / done * (total - done):.0f} s left" if total else ""
            told = f" ({self._told[task]})" if self._told.get(task) else ""
            self._print(f"{description}: {done}{of}{left}{told}")

    def tell(self, task: int, told: str) -> None:
        """See Progress; also a line where nothing else has been said for long."""
        self._told[task] = one_line(told, _WIDEST)
        now = time.monotonic()
        with self._lock:
            description, total, done, began, last = self._tasks[task]
            due = bool(told) and now - last >= self.interval
            self._tasks[task] = (description, total, done, began, now if due else last)
        if due:
            of = f"/{total}" if total else ""
            self._print(f"{description}: {done}{of} ({self._told[task]})")

    def stop(self, task: int) -> None:
        """See Progress."""
        self._told.pop(task, None)
        description, total, done, began, _ = self._tasks.pop(task)
        of = f" of {total}" if total and done != total else ""
        self._print(f"{description}: {done}{of} in {time.monotonic() - began:.1f} s")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)


def for_console(console: Console | None = None) -> Progress:
    """Bars on a terminal, lines elsewhere; always on standard error, results keep stdout."""
    console = console or Console(file=sys.stderr)
    return Bars(console) if console.is_terminal else Lines(console)
