"""Small jobs that executors are tried with, by the conformance kit and by measurements."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.errors import DataError
from quantcore.runtime.jobs import Job, Piece
from quantcore.runtime.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a piece of a trial tells.

    Attributes:
        number: Of the piece.
        values: What depends on nothing but that.
        process: That it ran in.
        began: When it began and ended, in seconds of this machine's clock.
        ended: See above.
    """

    number: int
    values: npt.NDArray[np.float64]
    process: int
    began: float
    ended: float


def trial(
    numbers: Sequence[int],
    *,
    seconds: float = 0.0,
    fails_at: int | None = None,
    kills: Path | None = None,
    reads: dict[Path, str] | None = None,
    quiet: bool = False,
    load: npt.NDArray[Any] | None = None,
    name: str = "trial",
    **more: Any,
) -> Job[Trial]:
    """A job with a piece for each number.

    Args:
        numbers: Of the pieces.
        seconds: That each takes.
        fails_at: The number whose piece raises DataError.
        kills: A file: the first process that finds it ends itself and removes it; one that is
            a folder ends each.
        reads: Files, each of which every piece reads.
        quiet: Whether the pieces must run alone.
        load: What goes along with the job.
        name: Of the job.
        more: Of `Job`.
    """
    pieces = tuple(
        Piece(key=f"{name} {number}", kind=Trial, about=number, quiet=quiet) for number in numbers
    )
    given = (seconds, fails_at, kills, tuple(reads or ()), load)
    return Job(what=name, function=_run, arguments=given, pieces=pieces, reads=reads or {}, **more)


def _run(
    seconds: float,
    fails_at: int | None,
    kills: Path | None,
    files: tuple[Path, ...],
    load: npt.NDArray[Any] | None,
    wanted: Sequence[int],
    progress: Progress,
) -> Iterator[tuple[int, Trial]]:
    for place, number in enumerate(wanted):
        began = time.monotonic()
        if number == fails_at:
            raise DataError(f"trial {number} fails on purpose")
        if kills is not None and kills.exists():
            if kills.is_file():
                kills.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        read = sum(len(path.read_bytes()) for path in files)
        time.sleep(seconds)
        values = np.linspace(0, number, 5) ** 0.5 + read + (0 if load is None else load.sum())
        yield (
            place,
            Trial(
                number=number,
                values=values,
                process=os.getpid(),
                began=began,
                ended=time.monotonic(),
            ),
        )
