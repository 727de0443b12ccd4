"""The subprocess in another environment, as this side talks to it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import quantcore
from quantcore import errors
from quantcore.contracts.remote import wire
from quantcore.contracts.remote.environments import check_confirmed, told_by, variable
from quantcore.contracts.remote.lines import LineError, Lines
from quantcore.contracts.remote.wire import Message
from quantcore.contracts.session import Show
from quantcore.errors import BackendError, BackendUnavailable, PluginError, QuantcoreError
from quantcore.ir.model import Array
from quantcore.ir.values import mapping, number, whole
from quantcore.ir.values import text as text_of
from quantcore.reading import parse_json
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import cause
from quantcore.showing import one_line, shown

#: Seconds in which a Python starts quantcore, and in which it has something to say while it works:
#: it tells every few seconds that it is alive.
GREETING, SILENCE = 120.0, 600.0
#: Seconds for a process to end that has closed its output.
_LAST_SECONDS = 10.0
#: Tasks of progress at a time.
_MOST_TASKS = 100

#: What making something of an answer raises where it is none.
_NONSENSE = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError),
    *(OSError, EOFError, MemoryError, zipfile.BadZipFile, RecursionError),
)

# Not `-m`: that would look for quantcore in the working directory before the other environment.
_START = """
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
try:
    from quantcore.contracts.remote.server import serve
except ModuleNotFoundError as error:
    sys.exit(print('{"kind": "absent", "module": "%s"}' % error.name))
serve(*sys.argv[1:])
"""


class Peer:
    """The subprocess, as this side sees it.

    Attributes:
        folder: Where files are exchanged; the other side's temporary files lie there too, so that
            nothing is left of a process that is killed.
        peak: Its peak resident memory in MB.
    """

    def __init__(self, name: str, python: Path) -> None:
        check_confirmed(name, python)
        self._where = f"backend {shown(name)} in {python}"
        self._python = python
        self._temporary = tempfile.TemporaryDirectory(prefix="quantcore-")
        self.folder = Path(self._temporary.name)
        self.peak = 0.0
        environment = {**os.environ, "TMPDIR": self._temporary.name}
        environment[variable(name)] = ""  # there, the backend is at home
        try:
            self._process = subprocess.Popen(
                [self._python, "-c", _START, name, self._temporary.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the side that a person started
            )
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            self._temporary.cleanup()
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise BackendUnavailable(
                f"backend {shown(name)}: {told_by(name)} says {python}, which cannot be run: "
                f"{reason}"
            ) from None
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._lines = Lines(self._process.stdout.fileno(), self._process.stdin.fileno())
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        try:
            hello = self._read(GREETING)
        except BackendError as error:
            raise BackendUnavailable(
                f"{self._where}: that Python does not start quantcore: {error}"
            ) from None
        install = f"{self._python} -m pip install quantcore-ptq=={quantcore.__version__}"
        if hello["kind"] == "absent":
            module = one_line(str(hello.get("module")), 100)
            raise BackendUnavailable(f"{self._where}: that Python has no {module}; run: {install}")
        if hello["kind"] != "hello" or hello.get("quantcore") != quantcore.__version__:
            version = one_line(str(hello.get("quantcore", "of no version")), 100)
            raise PluginError(
                f"{self._where}: that Python has quantcore {version}, this one has "
                f"{quantcore.__version__}; run: {install}"
            )

    def ask(
        self,
        what: str,
        progress: Progress | None = None,
        answers: Answers | None = None,
        **arguments: Any,
    ) -> Any:
        """The answer to a request; progress and questions of the other side are served meanwhile.

        Raises:
            QuantcoreError: As the other side raised it.
            BackendError: The process died.
        """
        self._check_open()
        tasks = _Tasks(progress or Silent())
        answers = answers or Answers()
        try:
            self._send({"do": what, **arguments})
            message = self._read(SILENCE)
            while message["kind"] in ("question", "progress", "alive"):
                if message["kind"] == "question":
                    self._send(answers.to(message.get("value")))
                elif message["kind"] == "progress":
                    with self.sense():
                        tasks.note(*message["value"])
                message = self._read(SILENCE)
        except BaseException:
            self.close()  # in the middle of an exchange: it cannot be talked to any more
            raise
        finally:
            tasks.stop()
        if answers.error is not None:
            raise answers.error
        with self.sense():
            self.peak = float(number(message["peak"]))
            value = self._error(message) if message["kind"] == "error" else message["value"]
        if isinstance(value, QuantcoreError):
            raise value
        return value

    @contextlib.contextmanager
    def sense(self) -> Iterator[None]:
        """Around all that makes something of an answer: nonsense becomes a BackendError."""
        try:
            yield
        except _NONSENSE as error:
            raise BackendError(f"{self._where}: it answered nonsense: {shown(error)}") from None

    def _error(self, message: Message) -> QuantcoreError:
        kind, text = getattr(errors, text_of(message["class"])), text_of(message["message"])
        if not isinstance(kind, type) or not issubclass(kind, QuantcoreError):
            raise TypeError(f"{message['class']} is no error")
        if issubclass(kind, PluginError):  # about that environment, not about the model
            text = text.replace("pip install", f"{self._python} -m pip install")
            text = f"{self._where}: {text}"
        error: QuantcoreError = kind(text)
        return error

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self._process.stdin is not None and not self._process.stdin.closed

    def _check_open(self) -> None:
        if not self.is_open:
            raise BackendError(f"{self._where}: the session is closed")

    def _send(self, message: Message) -> None:
        try:
            self._lines.write(json.dumps(message).encode(), SILENCE)
        except BrokenPipeError:  # it died: reading tells how
            pass
        except LineError as error:
            raise BackendError(f"{self._where}: {error}") from None

    def _read(self, patience: float) -> Message:
        """The next message; raises BackendError where none comes, or what comes is none."""
        try:
            line = self._lines.read(patience)
        except LineError as error:
            raise BackendError(f"{self._where}: {error}") from None
        if line is None:
            raise BackendError(f"{self._where}: the process died {self._end()}")
        try:
            return _message(line)
        except ValueError:
            said = shown(line[:300].decode(errors="replace"))
            raise BackendError(f"{self._where}: it said {said}, which is no message") from None

    def _end(self) -> str:
        try:
            return cause(self._process.wait(_LAST_SECONDS))
        except subprocess.TimeoutExpired:
            return "without ending: it closed its output"

    def load(self, path: object) -> list[Array]:
        """The arrays that the other side has written."""
        with self.sense():
            return wire.load(self._ours(path))

    def _ours(self, path: object) -> Path:
        """A file of the folder that both sides share; raises ValueError for any other."""
        found = Path(text_of(path))
        if found.parent != self.folder or found.is_symlink():
            raise ValueError(f"{path} lies elsewhere")
        return found

    def pieces(self, offered: object) -> Iterator[tuple[str, Array]]:
        """The activations in a file that the other side has written."""
        with self.sense():
            told = mapping(offered)
            yield from wire.pieces(self._ours(told["path"]), told["entries"])

    def save(self, arrays: Sequence[Array]) -> str:
        """Writes arrays for the other side; the name of the file."""
        self._check_open()
        return wire.save(self.folder / "here.npz", arrays)

    def close(self) -> None:
        """Ends the process and removes the folder; safe to call twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._temporary.cleanup()


def _message(line: bytes) -> Message:
    """A line as a message; raises ValueError where it is none."""
    found = parse_json(line)
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise ValueError("no message")
    return found


class _Tasks:
    """The other side's progress, shown on this one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, int] = {}

    def note(self, kind: str, number: int, *rest: Any) -> None:
        """Takes in one message of `worker._Sent`."""
        if kind == "start":
            description, total = rest
            if len(self._tasks) >= _MOST_TASKS:
                raise ValueError("it started far too many tasks")
            total = None if total is None else whole(total)
            self._tasks[number] = self._progress.start(one_line(text_of(description), 80), total)
        elif kind == "advance":
            self._progress.advance(self._tasks[number])
        else:
            self._progress.stop(self._tasks.pop(number))

    def stop(self) -> None:
        """Ends what the other side left open."""
        for task in self._tasks.values():
            self._progress.stop(task)
        self._tasks.clear()


class Answers:
    """What the other side asks in the middle of a request; errors wait until it has stopped.

    Attributes:
        error: What finding an answer raised.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def to(self, question: Any) -> Message:
        """The answer, or the word to stop."""
        try:
            return self._to(question)
        except BaseException as error:  # Ctrl-C too, so that the session stays of use
            self.error = error
            return {"stop": True}

    def _to(self, question: Any) -> Message:
        raise BackendError(f"the other side asked {shown(question)} where it has nothing to ask")


class Feed(Answers):
    """Hands batches over one by one."""

    def __init__(self, batches: Iterable[Array], peer: Peer) -> None:
        super().__init__()
        self._batches = iter(batches)
        self._peer = peer

    def _to(self, question: Any) -> Message:
        for batch in self._batches:
            return {"batch": self._peer.save([batch])}
        return {"end": True}


class Shown(Answers):
    """Takes in activations, a file of them at a time."""

    def __init__(self, show: Mapping[str, Show], peer: Peer) -> None:
        super().__init__()
        self._show, self._peer = show, peer

    def _to(self, question: Any) -> Message:
        for tensor, values in self._peer.pieces(question):
            if tensor not in self._show:
                raise BackendError(f"the other side showed {shown(tensor)}, which nobody asked for")
            self._show[tensor](values)
        return {}
