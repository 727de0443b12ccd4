"""The side in the other environment: answers requests about one backend."""

from __future__ import annotations

import functools
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import onnx

import quantcore
from quantcore import errors
from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin, BackendSession
from quantcore.contracts.capabilities import Capabilities
from quantcore.contracts.remote import wire
from quantcore.contracts.remote.wire import Message
from quantcore.errors import QuantcoreError
from quantcore.ir.model import Array, FloatModel, LayerInfo, Preprocessing
from quantcore.runtime.worker import SentProgress, peak_rss_mb
from quantcore.table.table import TensorRange


class _Stopped(BaseException):
    """Reading a batch failed over there; not an Exception, so that no plugin takes it for one."""


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

    def run(self) -> None:
        """Answers until the other side is gone, even in the middle of a request."""
        self._say(kind="hello", quantcore=quantcore.__version__)
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            request = self._requests.get()
            try:
                value = getattr(self, f"_{request.pop('do')}")(**request)
                self._say(kind="done", value=value, peak=peak_rss_mb())
            except _Stopped:
                self._say(kind="stopped", peak=peak_rss_mb())
            except Exception as error:  # a framework may raise anything
                self._say(kind="error", peak=peak_rss_mb(), **self._told(error))

    def _listen(self) -> None:
        for line in sys.stdin:
            self._requests.put(json.loads(line))
        os._exit(0)

    def _say(self, **message: Any) -> None:
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

    def _open(self, model: Message, device: str) -> None:
        model["preprocessing"] = wire.tupled(Preprocessing, model["preprocessing"])
        boxes = model.pop("decoding")
        decoding = registry.load_decoding(boxes["kind"]).from_dict(boxes)
        proto = onnx.load(self._folder / "float.onnx")
        self._session = self._plugin.open(
            wire.tupled(FloatModel, {**model, "decoding": decoding, "proto": proto}), device
        )
        self._session.progress = SentProgress(self.send)

    @property
    def _opened(self) -> BackendSession:
        assert self._session is not None
        return self._session

    def _forward(self, batch: str) -> str:
        return self._save(list(self._opened.forward(*wire.load(batch)).values()))

    def _calibrate(self, plan: Message, total: int | None) -> Message:
        found = self._opened.calibrate(wire.planned(plan), self._batches(total))
        return {tensor: entry.to_dict() for tensor, entry in found.items()}

    def _collect(self, plans: list[Message], total: int | None, keep: bool) -> Message:
        wanted = [wire.planned(plan) for plan in plans]
        found = self._opened.collect(wanted, self._batches(total), keep)
        return {tensor: [s.to_dict() for s in seen] for tensor, seen in found.items()}

    def _batches(self, total: int | None) -> Iterable[Array]:
        batches = _Batches(self._batch, total)
        return iter(batches) if total is None else batches

    def _batch(self) -> Array | None:
        self._say(kind="batch")
        answer = self._requests.get()
        if "stop" in answer:
            raise _Stopped
        return wire.load(answer["batch"])[0] if "batch" in answer else None

    def _apply(self, plan: Message, ranges: Message) -> None:
        entries = {tensor: TensorRange.from_dict(entry) for tensor, entry in ranges.items()}
        self._opened.apply(wire.planned(plan), entries)

    def _compute_in(self, arithmetic: str) -> None:
        self._opened.compute_in(arithmetic)

    def _simulate(self, arrays: str, forced: list[str]) -> Message:
        batch, *values = wire.load(arrays)
        found = self._opened.simulate(batch, dict(zip(forced, values, strict=True)))
        return {"names": list(found), "arrays": self._save(list(found.values()))}

    def _save(self, arrays: Sequence[Array]) -> str:
        return wire.save(self._folder / "there.npz", arrays)


class _Batches:
    """What the other side hands over, for a backend to read once."""

    def __init__(self, ask: Callable[[], Array | None], total: int | None) -> None:
        self._ask = ask
        self._total = total

    def __len__(self) -> int:
        return self._total or 0

    def __iter__(self) -> Iterator[Array]:
        while (batch := self._ask()) is not None:
            yield batch
