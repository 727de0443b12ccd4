"""Jobs for test_worker.py: a fresh process imports them by this module's name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from quantcore.errors import DataError, QuantcoreError


class OddError(QuantcoreError):
    """Cannot be unpickled: its constructor wants more than its arguments."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")


def add(a: int, b: int, progress: Any) -> tuple[int, int]:
    return a + b, os.getpid()


def steps(count: int, progress: Any) -> int:
    return sum(progress.track(range(count), "counting"))


def nested(progress: Any) -> None:
    for _ in progress.track(range(2), "outer"):
        for _ in progress.track(range(3), "inner"):
            pass


def fail(message: str, progress: Any) -> None:
    raise DataError(message)


def fail_oddly(progress: Any) -> None:
    raise OddError("a.jpg", "no")


def fail_amid_progress(progress: Any) -> None:
    for _ in progress.track(range(5), "half way"):
        raise DataError("stop")


def crash(progress: Any) -> None:
    raise RuntimeError("a fault of the framework")


def leave(code: int, progress: Any) -> None:
    progress.start("left", 3)
    os._exit(code)


def die(progress: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def allocate(megabytes: int, progress: Any) -> int:
    return len(bytearray(b"x") * (megabytes * 10**6))


def unpicklable(progress: Any) -> Any:
    return lambda: None


def squares(fails_at: int, wanted: tuple[int, ...], progress: Any) -> Iterator[tuple[int, int]]:
    for number, value in enumerate(wanted):
        if value == fails_at:
            raise DataError(f"no square of {value}")
        yield number, value**2


def dies_after(count: int, wanted: tuple[int, ...], progress: Any) -> Iterator[tuple[int, int]]:
    for number, value in enumerate(wanted):
        if number == count:
            os.kill(os.getpid(), signal.SIGKILL)
        yield number, value


def slowly(wanted: tuple[int, ...], progress: Any) -> Iterator[tuple[int, int]]:
    for number, value in enumerate(wanted):
        time.sleep(0.02)
        yield number, value


def nothing(wanted: tuple[int, ...], progress: Any) -> Iterator[tuple[int, int]]:
    yield from ()


def threads(progress: Any) -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def sum_and_process(a: int, b: int) -> tuple[int, int]:
    return a + b, os.getpid()


def abort() -> None:
    os.abort()


def flood() -> int:
    return len(bytearray(4 << 30))


def spin() -> None:
    while True:
        pass


def bad_value() -> None:
    raise ValueError("one\ntwo")
