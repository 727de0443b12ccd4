"""The subprocess in another environment, as this side talks to it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import quantcore
from quantcore import errors
from quantcore.contracts.remote import wire
from quantcore.contracts.remote.environments import check_confirmed, told_by, variable
from quantcore.contracts.remote.wire import Message
from quantcore.contracts.session import Show
from quantcore.errors import BackendError, BackendUnavailable, PluginError, QuantcoreError
from quantcore.ir.model import Array
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import cause
from quantcore.showing import shown

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
                encoding="utf-8",
            )
        except OSError as error:
            self._temporary.cleanup()
            raise BackendUnavailable(
                f"backend {shown(name)}: {told_by(name)} says {python}, which cannot be run: "
                f"{error.strerror or error}"
            ) from None
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        try:
            hello = self._read()
        except (BackendError, ValueError) as error:
            raise BackendUnavailable(
                f"{self._where}: that Python does not start quantcore: {error}"
            ) from None
        install = f"{self._python} -m pip install quantcore-ptq=={quantcore.__version__}"
        if hello["kind"] == "absent":
            raise BackendUnavailable(
                f"{self._where}: that Python has no {hello['module']}; run: {install}"
            )
        if hello["quantcore"] != quantcore.__version__:
            raise PluginError(
                f"{self._where}: that Python has quantcore {hello['quantcore']}, this one has "
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
            message = self._read()
            while message["kind"] in ("question", "progress"):
                if message["kind"] == "question":
                    self._send(answers.to(message["value"]))
                else:
                    tasks.note(*message["value"])
                message = self._read()
        except BaseException:
            self.close()  # in the middle of an exchange: it cannot be talked to any more
            raise
        finally:
            tasks.stop()
        if answers.error is not None:
            raise answers.error
        self.peak = message["peak"]
        if message["kind"] == "error":
            raise self._error(message)
        return message["value"]

    def _error(self, message: Message) -> QuantcoreError:
        kind = getattr(errors, message["class"])
        text = message["message"]
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
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died: reading tells how
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self) -> Message:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BackendError(f"{self._where}: the process died {cause(self._process.wait())}")
        message: Message = json.loads(line)
        return message

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


class _Tasks:
    """The other side's progress, shown on this one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[int, int] = {}

    def note(self, kind: str, number: int, *rest: Any) -> None:
        """Takes in one message of `worker._Sent`."""
        if kind == "start":
            self._tasks[number] = self._progress.start(*rest)
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

    def __init__(self, show: Mapping[str, Show]) -> None:
        super().__init__()
        self._show = show

    def _to(self, question: Any) -> Message:
        for tensor, values in wire.pieces(question):
            self._show[tensor](values)
        return {}
