"""What every executor promises, whatever it runs jobs on: each promise is a function here."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from quantcore.errors import DataError, QuantcoreError
from quantcore.runtime.executor import Executor
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.keys import file_digest
from quantcore.runtime.progress import Silent
from quantcore.runtime.trials import trial

#: Seconds in which anything here must have ended.
_PATIENCE = 60.0


def values_come_back_exactly(executor: Executor) -> None:
    """Every piece comes back once, in its place, to the last bit, whichever are asked for."""
    found = Runtime(executor).run(trial([5, 3, 11, 7], apart=False))
    assert [each.number for each in found] == [5, 3, 11, 7], "pieces are out of order"
    for each in found:
        wanted = np.linspace(0, each.number, 5) ** 0.5
        assert each.values.dtype == wanted.dtype, "arrays change their type on the way"
        assert each.values.tobytes() == wanted.tobytes(), "arrays change on the way"


def large_values_arrive(executor: Executor) -> None:
    """Arguments of megabytes arrive whole, again and again."""
    load = np.random.default_rng(1).standard_normal(1 << 18)
    for _ in range(2):
        (found,) = Runtime(executor).run(trial([0], apart=False, load=load))
        assert float(found.values[0]) == float(load.sum()), "an argument arrived changed"


def an_error_keeps_its_class(executor: Executor) -> None:
    """A job's own error arrives as what it is; what was finished before is taken in."""
    kept: dict[int, Any] = {}
    running = executor.submit(trial([1, 2, 3], fails_at=3, apart=False), kept.__setitem__, Silent())
    error = running.exception(_PATIENCE)
    assert isinstance(error, DataError), f"a DataError came back as {error!r}"
    assert "fails on purpose" in str(error), "the message was lost"
    assert kept.keys() == {0, 1}, "what was finished before the error was lost"


def it_goes_on_after_a_death(executor: Executor) -> None:
    """A process that dies ends its job at most; the next job finds everything in order."""
    with tempfile.TemporaryDirectory() as folder:
        running = executor.submit(trial([1], kills=Path(folder)), _ignore, Silent())
        error = running.exception(_PATIENCE)
        assert isinstance(error, QuantcoreError), f"a process that died came back as {error!r}"
    values_come_back_exactly(executor)


def a_job_apart_is_apart(executor: Executor) -> None:
    """A job that needs a process of its own shares it with no other; one at hand runs here."""
    runtime = Runtime(executor)
    (first,) = runtime.run(trial([1]))
    (second,) = runtime.run(trial([2]))
    (here,) = runtime.run(trial([3], apart=False, at_hand=True))
    assert os.getpid() not in (first.process, second.process), "it ran in this process"
    assert first.process != second.process, "two jobs shared a process"
    assert here.process == os.getpid(), "a job that is to be done here was done elsewhere"


def it_can_be_cancelled(executor: Executor) -> None:
    """A job that is cancelled ends soon, and so does what waits behind it."""
    running = executor.submit(trial([1], seconds=30), _ignore, Silent())
    time.sleep(0.3)
    running.cancel()
    began = time.monotonic()
    values_come_back_exactly(executor)
    assert time.monotonic() - began < 20, "a cancelled job held up the next one"
    assert not wait([running], _PATIENCE).not_done, "a cancelled job is still said to run"


def quiet_means_alone(executor: Executor) -> None:
    """While a quiet piece runs, nothing else of ours does."""
    runtime = Runtime(executor)
    jobs = [
        trial([1], seconds=0.1, quiet=number % 2 == 0, name=f"part {number}", apart=False)
        for number in range(6)
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        found = list(pool.map(runtime.one, jobs))
    for number in range(0, 6, 2):
        mine = found[number]
        for other, theirs in enumerate(found):
            beside = mine.began < theirs.ended and theirs.began < mine.ended
            assert other == number or not beside, "a quiet piece ran beside another one"


def files_are_read_by_content(executor: Executor) -> None:
    """A job reads the files that it names, and not others under their paths."""
    runtime = Runtime(executor)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        path.write_bytes(b"x" * 100)
        (found,) = runtime.run(trial([0], reads={path: file_digest(path)}, apart=False))
        assert found.values[0] == 100, "a job did not read its file"


def _ignore(number: int, value: object) -> None:
    """Takes a piece nowhere."""


#: Every promise, by what it is called.
PROMISES: Mapping[str, Callable[[Executor], None]] = {
    "values come back exactly": values_come_back_exactly,
    "large values arrive": large_values_arrive,
    "an error keeps its class": an_error_keeps_its_class,
    "it goes on after a death": it_goes_on_after_a_death,
    "a job apart is apart": a_job_apart_is_apart,
    "it can be cancelled": it_can_be_cancelled,
    "quiet means alone": quiet_means_alone,
    "files are read by content": files_are_read_by_content,
}
