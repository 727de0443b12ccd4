"""Jobs: pieces of work under content keys, each computed once and kept as soon as it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from quantcore.errors import OutputError
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.store import Store

if TYPE_CHECKING:
    from quantcore.runtime.executor import Executor

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece of a job.

    Attributes:
        key: Of everything that its value depends on; from `quantcore.runtime.keys.content_key`.
        kind: Class of its value: a dataclass, an array, a container of such.
        about: What the job's function is given for it.
        group: Pieces with the same number share work and are best done together; None for a piece
            that shares nothing.
        quiet: Whether it measures time: nothing else may run on the machine meanwhile.
    """

    key: str
    kind: Any
    about: Any = None
    group: int | None = None
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a machine must have to do a job.

    Attributes:
        plugins: Entry-point group and name of each plugin that is used.
        cuda: Whether a GPU is asked for.
    """

    plugins: tuple[tuple[str, str], ...] = ()
    cuda: bool = False


@dataclass(frozen=True, kw_only=True)
class Job(Generic[R]):
    """Some pieces of work that are done together; a pure function of values.

    Attributes:
        what: Names it in errors.
        function: Of a module. Called with the arguments, what is `about` each piece that is wanted
            (in order), and a Progress; yields (number of the piece among those, value), in any
            order.
        arguments: Values that pickle.
        pieces: What it computes.
        apart: Whether it needs a process of its own: for a framework, for honest peak memory.
        threads: That it may use; None for all that are there.
        needs: What a machine must have to do it.
        reads: SHA-256 of each file that it reads; elsewhere they may lie under other paths.
        at_hand: Whether it is done where the study is: quickly, and on much that lies there.
    """

    what: str
    function: Callable[..., Iterator[tuple[int, R]]]
    arguments: tuple[Any, ...]
    pieces: tuple[Piece, ...]
    apart: bool = True
    threads: int | None = None
    needs: Needs = Needs()
    reads: Mapping[Path, str] = field(default_factory=dict)
    at_hand: bool = False

    @property
    def kind(self) -> str:
        """What jobs that take alike have in common."""
        function = self.arguments[0] if self.function is _whole else self.function
        return f"{function.__module__}.{function.__qualname__} {self.needs}"


def whole(
    what: str,
    key: str,
    kind: type[R],
    function: Callable[..., R],
    *arguments: Any,
    quiet: bool = False,
    **more: Any,
) -> Job[R]:
    """A job of one piece, the value of `function(*arguments, progress)`; see `Job` and `Piece`."""
    return Job(
        what=what,
        function=_whole,
        arguments=(function, *arguments),
        pieces=(Piece(key=key, kind=kind, quiet=quiet),),
        **more,
    )


def at_hand(
    what: str, key: str, kind: type[R], function: Callable[..., R], *arguments: Any
) -> Job[R]:
    """As `whole`, done in this process where the study is."""
    return whole(what, key, kind, function, *arguments, apart=False, at_hand=True)


def _whole(function: Callable[..., R], *given: Any) -> Iterator[tuple[int, R]]:
    *arguments, _, progress = given
    yield 0, function(*arguments, progress)


class Running(Future[None]):
    """A job on an executor.

    `result()` waits for its end and raises what it raised; `cancel()` ends it, however far it is,
    and keeps the pieces that were finished.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cancelled_midway = threading.Event()
        self._ends: list[Callable[[], None]] = []

    def when_cancelled(self, end: Callable[[], None]) -> None:
        """Has a function called that ends the work, once it is cancelled."""
        self._ends.append(end)
        if self.cancelled_midway.is_set():
            end()

    def cancel(self) -> bool:
        """See the class; False where the job was done already."""
        if self.done():
            return self.cancelled()
        self.cancelled_midway.set()
        for end in self._ends:
            end()
        super().cancel()
        return True


#: Takes in a finished piece: its number in the job, and its value.
Finish = Callable[[int, Any], None]


class Runtime:
    """Runs jobs on an executor, and keeps what they finish in a store.

    Attributes:
        executor: Where jobs run.
        progress: Where they report.
        computed: Pieces that were computed.
        reused: Pieces that were there already.
    """

    def __init__(
        self, executor: Executor, store: Store | None = None, progress: Progress | None = None
    ) -> None:
        """Starts nothing.

        Args:
            executor: Where jobs run.
            store: Where finished pieces are kept and found again; None keeps nothing.
            progress: Where jobs report.
        """
        self.executor, self._store = executor, store
        self.progress = progress or Silent()
        self.computed = self.reused = 0
        self._lock = threading.Lock()
        self._open: set[Running] = set()

    def run(self, job: Job[R]) -> list[R]:
        """The values of a job's pieces, in order; only what is not in the store is computed.

        Raises:
            QuantcoreError: As the job raised it; what it had finished is kept.
            OutputError: The store cannot be written to.
        """
        values: dict[int, R] = {}
        if self._store is not None:
            for number, piece in enumerate(job.pieces):
                found = self._store.get(piece.key, piece.kind)
                if found is not None:
                    values[number] = found
        missing = [number for number in range(len(job.pieces)) if number not in values]
        with self._lock:
            self.reused += len(values)
        if missing:
            part = replace(job, pieces=tuple(job.pieces[number] for number in missing))

            def finish(number: int, value: R) -> None:
                values[missing[number]] = value
                self._keep(part.pieces[number].key, value)

            self._wait(self.executor.submit(part, finish, self.progress))
        if len(values) < len(job.pieces):
            lost = len(job.pieces) - len(values)
            raise OutputError(f"{job.what}: {lost} of {len(job.pieces)} pieces did not come back")
        return [values[number] for number in range(len(job.pieces))]

    def together(self, works: Sequence[Callable[[], T]], what: str | None = None) -> list[T]:
        """What some functions return that each run jobs; beside each other where there is room.

        Args:
            works: The functions.
            what: A few words for the progress; None for none.

        Raises:
            BaseException: As the first of them raises it; the jobs of the others are cancelled.
        """
        task = self.progress.start(what, len(works)) if what is not None else None

        def done(work: Callable[[], T]) -> T:
            found = work()
            if task is not None:
                self.progress.advance(task)
            return found

        try:
            return self._together([partial(done, work) for work in works])
        finally:
            if task is not None:
                self.progress.stop(task)

    def _together(self, works: Sequence[Callable[[], T]]) -> list[T]:
        width = min(self.executor.width, len(works))
        if width < 2:
            return [work() for work in works]
        with ThreadPoolExecutor(width, thread_name_prefix="quantcore-study") as pool:
            futures = [pool.submit(work) for work in works]
            try:
                return [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                with self._lock:
                    left = tuple(self._open)
                for running in left:
                    running.cancel()
                raise

    def one(self, job: Job[R]) -> R:
        """The value of a job of one piece; see `run`."""
        return self.run(job)[0]

    def _keep(self, key: str, value: object) -> None:
        with self._lock:
            self.computed += 1
        if self._store is not None:
            self._store.put(key, value)

    def host(self, needs: Needs) -> Mapping[str, object]:
        """The machine that times will be measured on; see `Executor.host`."""
        return self.executor.host(needs)

    def _wait(self, running: Running) -> None:
        with self._lock:
            self._open.add(running)
        try:
            running.result()
        except BaseException:  # Ctrl-C here ends the job there
            running.cancel()
            raise
        finally:
            with self._lock:
                self._open.discard(running)

    def summary(self) -> str:
        """What was computed and what was there, in one line."""
        if not self.computed and self.reused:
            return f"nothing was computed: all {self.reused} pieces of work were there already"
        line = f"{self.computed} pieces of work computed"
        return f"{line}, {self.reused} were there already" if self.reused else line
