"""Jobs in a process of their own: results, progress, errors, crashes, memory."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

from quantcore.errors import BackendError, DataError
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.worker import peak_rss_mb, run_apart


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that the fresh process can import too: it is given this sys.path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("worker_jobs")


class Recorded(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def start(self, description: str, total: int | None) -> int:
        self.events.append(("start", description, total))
        return 10 + len(self.events)

    def advance(self, task: int) -> None:
        self.events.append(("advance", task))

    def stop(self, task: int) -> None:
        self.events.append(("stop", task))


def test_a_result_comes_back_from_another_process(jobs: ModuleType) -> None:
    done = run_apart(jobs.add, 2, 3, progress=Silent(), what="sum")
    total, process = done.result
    assert total == 5
    assert process != os.getpid()


def test_progress_is_relayed(jobs: ModuleType) -> None:
    progress = Recorded()
    assert run_apart(jobs.steps, 3, progress=progress, what="steps").result == 3
    task = 11
    assert progress.events == [
        ("start", "counting", 3),
        ("advance", task),
        ("advance", task),
        ("advance", task),
        ("stop", task),
    ]


def test_nested_progress_keeps_its_tasks_apart(jobs: ModuleType) -> None:
    progress = Recorded()
    run_apart(jobs.nested, progress=progress, what="nested")
    starts = [event[1] for event in progress.events if event[0] == "start"]
    assert starts == ["outer", "inner", "inner"]
    assert sum(event[0] == "advance" for event in progress.events) == 2 + 6
    assert progress.events[-1] == ("stop", 11)


def test_an_error_of_quantcore_is_raised_here(jobs: ModuleType) -> None:
    with pytest.raises(DataError, match=r"^image 7 is missing$"):
        run_apart(jobs.fail, "image 7 is missing", progress=Silent(), what="job")


def test_an_error_that_does_not_pickle_keeps_its_message(jobs: ModuleType) -> None:
    with pytest.raises(BackendError, match=r"^a\.jpg: no$"):
        run_apart(jobs.fail_oddly, progress=Silent(), what="job")


def test_progress_is_ended_when_the_job_fails(jobs: ModuleType) -> None:
    progress = Recorded()
    with pytest.raises(DataError):
        run_apart(jobs.fail_amid_progress, progress=progress, what="job")
    assert progress.events == [("start", "half way", 5), ("stop", 11)]


def test_an_unforeseen_exception_is_one_of_the_backend(
    jobs: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendError, match="paddle: the process died with exit code 1"):
        run_apart(jobs.crash, progress=Silent(), what="paddle")
    assert "a fault of the framework" in capfd.readouterr().err


def test_a_process_that_leaves_is_told_with_its_code(jobs: ModuleType) -> None:
    progress = Recorded()
    with pytest.raises(BackendError, match="job: the process died with exit code 3"):
        run_apart(jobs.leave, 3, progress=progress, what="job")
    assert progress.events == [("start", "left", 3), ("stop", 11)]


def test_a_process_that_leaves_quietly_has_no_result(jobs: ModuleType) -> None:
    with pytest.raises(BackendError, match="exit code 0"):
        run_apart(jobs.leave, 0, progress=Silent(), what="job")


def test_a_process_that_is_killed_is_told_with_its_signal(jobs: ModuleType) -> None:
    with pytest.raises(BackendError, match="job: the process died of signal SIGKILL"):
        run_apart(jobs.die, progress=Silent(), what="job")


def test_a_result_that_does_not_pickle_is_an_error(jobs: ModuleType) -> None:
    with pytest.raises(BackendError, match="job: the process died"):
        run_apart(jobs.unpicklable, progress=Silent(), what="job")


def test_peak_memory_is_that_of_the_job(jobs: ModuleType) -> None:
    small = run_apart(jobs.allocate, 1, progress=Silent(), what="job").peak_rss_mb
    large = run_apart(jobs.allocate, 200, progress=Silent(), what="job").peak_rss_mb
    assert large > 200
    assert 150 < large - small < 260


def test_peak_memory_is_not_the_parents(jobs: ModuleType) -> None:
    ballast = bytearray(b"x") * 300_000_000
    child = run_apart(jobs.allocate, 1, progress=Silent(), what="job").peak_rss_mb
    assert len(ballast) == 300_000_000
    assert child < 300 < peak_rss_mb()
