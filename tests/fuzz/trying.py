"""One reader on many changed files: what it says of each is held against what is promised."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantcore.errors import QuantcoreError
from tests.fuzz.mutations import changed
from tests.fuzz.readers import Reader

#: Seconds, bytes and characters that are promised.
SECONDS, BYTES, CHARACTERS = 10, 1 << 30, 1000


@dataclass
class Tried:
    """What came of it.

    Attributes:
        inputs: How many files were read.
        refused: How many of them with one line.
        slowest: Seconds of the longest.
        faults: Of each that broke a promise: its number and what happened.
    """

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: list[tuple[int, str]] = field(default_factory=list)


def attempt(reader: Reader, folder: Path, inputs: range, seed: int) -> Tried:
    """Reads changed files; each depends on the seed and its number alone.

    Args:
        reader: Which.
        folder: Where files are written; the last one stays there, should the process die.
        inputs: Numbers of the files.
        seed: Of the changes.
    """
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    samples, tried = reader.samples(), Tried()
    for sample in samples:  # what is not changed is read, or refused for what it is
        path.write_bytes(reader.wrap(sample))
        with contextlib.suppress(QuantcoreError):
            reader.read(path)
    with _limited():
        for number in inputs:
            draw = random.Random(f"{reader.name} {seed} {number}")
            path.write_bytes(reader.wrap(changed(draw.choice(samples), draw, reader.ways)))
            began = time.monotonic()
            fault = _fault(reader, path, tried)
            tried.inputs += 1
            tried.slowest = max(tried.slowest, time.monotonic() - began)
            if fault:
                tried.faults.append((number, fault))
    return tried


def _fault(reader: Reader, path: Path, tried: Tried) -> str | None:
    signal.alarm(SECONDS)
    try:
        reader.read(path)
    except QuantcoreError as error:
        tried.refused += 1
        text = str(error)
        if not text.isprintable():
            return f"a message of several lines: {text!r}"
        if "memory" in text:  # none of these files is large enough to need it
            return text
        return f"a message of {len(text)} characters" if len(text) > CHARACTERS else None
    except TimeoutError:
        return f"more than {SECONDS} seconds: {_where()}"
    except BaseException:
        return _where()
    finally:
        signal.alarm(0)
    return None


def _where() -> str:
    return " | ".join(line.strip() for line in traceback.format_exc().splitlines()[-5:])


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Lets this process take so much more memory, and raises after so many seconds."""

    def late(*_: Any) -> None:
        raise TimeoutError

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, before[1]))
    handler = signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
