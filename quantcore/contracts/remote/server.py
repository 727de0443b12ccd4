"""The side in the other environment: answers requests about one backend."""

from __future__ import annotations

import functools
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import onnx

import quantcore
from quantcore import errors
from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin
from quantcore.contracts.capabilities import Capabilities
from quantcore.contracts.remote import wire
from quantcore.contracts.remote.training import ServedTrainings
from quantcore.contracts.remote.wire import Message
from quantcore.contracts.session import BackendSession, SessionOptions, Simulation
from quantcore.errors import BackendError, QuantcoreError
from quantcore.ir.description import described
from quantcore.ir.model import Array, LayerInfo
from quantcore.qdq.placement import Plan
from quantcore.runtime.worker import SentProgress, peak_rss_mb

#: Seconds between two signs of life; far fewer than the other side waits.
_BREATH = 10.0


class _Stopped(BaseException):
    """What was asked for failed over there; no Exception, so that no plugin takes it for one."""


def serve(name: str, folder: str) -> None:
    """Answers requests about a backend until standard input ends.

    Args:
        name: Backend name.
        folder: Where files are exchanged.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the side that a person started
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what frameworks print must not get between the messages
    _Server(name, Path(folder), out).run()


class _Server:
    """The requests, one method each."""

    def __init__(self, name: str, folder: Path, out: Any) -> None:
        self._name = name
        self._folder = folder
        self._out = out
        self._requests: queue.Queue[Message] = queue.Queue()
        self._session: BackendSession | None = None
        self._simulations: dict[int, Simulation] = {}
        self._next = 0
        self._turn = threading.Lock()
        self._asked = threading.Event()
        self._trainings = ServedTrainings(self._save)

    def run(self) -> None:
        """Answers until the other side is gone, even in the middle of a request."""
        self._say(kind="hello", quantcore=quantcore.__version__)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._breathe, daemon=True).start()
        while True:
            request = self._requests.get()
            self._asked.set()
            try:
                value = getattr(self, f"_{request.pop('do')}")(**request)
                self._done(kind="done", value=value)
            except _Stopped:
                self._done(kind="stopped")
            except Exception as error:  # a framework may raise anything
                self._done(kind="error", **self._told(error))

    def _listen(self) -> None:
        for line in sys.stdin:
            self._requests.put(json.loads(line))
        # The other side removes the folder too, unless it was killed.
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(0)

    def _breathe(self) -> None:
        """Tells now and then that a request is still being worked on."""
        while True:
            self._asked.wait()
            time.sleep(_BREATH)
            with self._turn:
                if self._asked.is_set():
                    self._write({"kind": "alive"})

    def _say(self, **message: Any) -> None:
        with self._turn:
            self._write(message)

    def _done(self, **message: Any) -> None:
        with self._turn:
            self._asked.clear()  # from here on nothing is awaited
            self._write({**message, "peak": peak_rss_mb()})

    def _write(self, message: Message) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def send(self, message: tuple[Any, ...]) -> None:
        """Progress, for `SentProgress`."""
        self._say(kind="progress", value=message)

    def _told(self, error: Exception) -> Message:
        if not isinstance(error, QuantcoreError):
            traceback.print_exc()
            said = f"backend {self._name!r}: {type(error).__name__}: {error}; see its output above"
            return {"class": "BackendError", "message": said}
        known = next(c for c in type(error).__mro__ if c.__module__ == errors.__name__)
        return {"class": known.__name__, "message": str(error)}

    @functools.cached_property
    def _plugin(self) -> BackendPlugin:
        return registry.load_backend(self._name)

    def _listed(self) -> Message:
        found = registry.find(registry.BACKENDS, self._name)
        return {"distribution": found.distribution, "version": found.version}

    def _describe(self) -> Message:
        known = {f.name: getattr(self._plugin.capabilities, f.name) for f in fields(Capabilities)}
        return {
            "capabilities": {key: wire.plain(value) for key, value in known.items()},
            "versions": dict(self._plugin.versions()),
        }

    def _framework_layer(self, layer: Message) -> Message | None:
        found = self._plugin.framework_layer(wire.tupled(LayerInfo, layer))
        return asdict(found) if found else None

    def _open(self, path: str, options: Message) -> str:
        model = described(onnx.load(path), Path(path), registry.load_decoding, whole=False)
        if model is None:
            raise BackendError(f"{path}: carries no description of its model")
        self._session = self._plugin.open(model, SessionOptions(**options))
        return model.fingerprint

    @property
    def _opened(self) -> BackendSession:
        assert self._session is not None
        return self._session

    def _forward(self, batch: str) -> str:
        return self._save(list(self._opened.forward(*wire.load(batch)).values()))

    def _watch(self, batch: str, tensors: list[str]) -> None:
        pieces = wire.Pieces(self._folder, self._ask, self._answer)
        (images,) = wire.load(batch)
        self._opened.watch(images, {name: functools.partial(pieces.add, name) for name in tensors})
        pieces.end()

    def _observe(self, sites: list[Message]) -> Message:
        progress = SentProgress(self.send)
        found = self._opened.observe(wire.sites(sites), self._batches(), progress)
        return {tensor: entry.to_dict() for tensor, entry in found.items()}

    def _batches(self) -> Iterator[Array]:
        while True:
            self._ask("batch")
            answer = self._answer()
            if "batch" not in answer:
                return
            yield wire.load(answer["batch"])[0]

    def _simulation(self, sites: list[Message], ranges: Message) -> int:
        plan = Plan(wire.sites(sites), ())
        number = self._next = self._next + 1
        self._simulations[number] = self._opened.simulation(plan, wire.ranges(ranges))
        return number

    def _infer(self, number: int, arrays: str, forced: list[str]) -> Message:
        batch, *values = wire.load(arrays)
        simulation = self._simulations[number]
        found = simulation.infer(batch, dict(zip(forced, values, strict=True)))
        return {"names": list(found), "arrays": self._save(list(found.values()))}

    def _end_simulation(self, number: int) -> None:
        self._simulations.pop(number).close()

    def _training(self, sites: list[Message], ranges: Message, spec: Message) -> int:
        return self._trainings.start(self._opened, sites, ranges, spec)

    def _train(self, number: int, wanted: str, given: Message) -> Any:
        return self._trainings.answer(number, wanted, given)

    def _save(self, arrays: Sequence[Array]) -> str:
        return wire.save(self._folder / "there.npz", arrays)

    def _ask(self, question: Any) -> None:
        self._say(kind="question", value=question)

    def _answer(self) -> Message:
        answer = self._requests.get()
        if "stop" in answer:
            raise _Stopped
        return answer
