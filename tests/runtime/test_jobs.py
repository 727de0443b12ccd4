"""Jobs: what is there is not computed again, what is finished is kept, whatever happens after."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from quantcore.errors import BackendError, DataError, OutputError
from quantcore.runtime.executor import Executor, InProcess, LocalExecutor, kept_in
from quantcore.runtime.jobs import Job, Piece, Runtime, whole
from quantcore.runtime.threads import cores, environment, share


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("worker_jobs")


def squares(jobs: ModuleType, *numbers: int, apart: bool = True, fails_at: int = -1) -> Job[int]:
    pieces = tuple(Piece(key=f"square {n}", kind=int, about=n) for n in numbers)
    return Job(
        what="squares", function=jobs.squares, arguments=(fails_at,), pieces=pieces, apart=apart
    )


@pytest.mark.parametrize("executor", [InProcess, LocalExecutor])
@pytest.mark.parametrize("apart", [True, False])
def test_only_what_is_missing_is_computed(
    jobs: ModuleType, tmp_path: Path, executor: type[Executor], apart: bool
) -> None:
    with kept_in(tmp_path, executor=executor()) as runtime:
        assert runtime.run(squares(jobs, 3, 5, apart=apart)) == [9, 25]
        assert runtime.run(squares(jobs, 5, 7, 3, apart=apart)) == [25, 49, 9]
        assert (runtime.computed, runtime.reused) == (3, 2)
        assert runtime.summary() == "3 pieces of work computed, 2 were there already"
    with kept_in(tmp_path, executor=executor()) as runtime:
        assert runtime.run(squares(jobs, 7, 3, apart=apart)) == [49, 9]
        assert "nothing was computed: all 2 pieces" in runtime.summary()


def test_what_was_finished_before_a_failure_is_kept(jobs: ModuleType, tmp_path: Path) -> None:
    with kept_in(tmp_path) as runtime, pytest.raises(DataError, match="no square of 4"):
        runtime.run(squares(jobs, 2, 3, 4, 5, fails_at=4))
    with kept_in(tmp_path) as runtime:
        assert runtime.run(squares(jobs, 2, 3, 4, 5)) == [4, 9, 16, 25]
        assert (runtime.computed, runtime.reused) == (2, 2)


def test_a_process_that_dies_loses_nothing_that_it_finished(
    jobs: ModuleType, tmp_path: Path
) -> None:
    pieces = tuple(Piece(key=str(n), kind=int, about=n) for n in range(4))
    job = Job(what="job", function=jobs.dies_after, arguments=(2,), pieces=pieces)
    with kept_in(tmp_path) as runtime, pytest.raises(BackendError, match="SIGKILL"):
        runtime.run(job)
    with kept_in(tmp_path) as runtime:
        assert runtime.run(job) == [0, 1, 2, 3]
        assert (runtime.computed, runtime.reused) == (2, 2)


def test_a_job_without_a_store_is_just_run(jobs: ModuleType) -> None:
    runtime = Runtime(InProcess())
    job = whole("sum", "key", tuple[int, int], jobs.add, 2, 3)
    assert runtime.one(job)[0] == 5
    assert runtime.one(job)[0] == 5
    assert runtime.computed == 2


@pytest.mark.parametrize("apart", [True, False])
def test_a_job_is_cancelled_midway(jobs: ModuleType, apart: bool) -> None:
    pieces = tuple(Piece(key=str(n), kind=int, about=n) for n in range(10**4))
    job = Job(what="slow", function=jobs.slowly, arguments=(), pieces=pieces, apart=apart)
    some, found = threading.Event(), []
    runtime = Runtime(InProcess())
    with LocalExecutor() as executor:

        def finish(number: int, value: int) -> None:
            found.append(value)
            if len(found) == 3:
                some.set()

        running = executor.submit(job, finish, runtime.progress)
        assert some.wait(30)
        began = time.monotonic()
        assert running.cancel()
        with pytest.raises(BackendError, match="slow: cancelled"):
            running.result(30)
        assert time.monotonic() - began < 10
        assert not running.cancel(), "it is over"
        assert len(found) < 1000


def test_jobs_beside_each_other_share_the_cores(jobs: ModuleType) -> None:
    with LocalExecutor(2) as executor:
        found: list[int] = []
        job = whole("threads", "key", int, jobs.threads)
        running = [
            executor.submit(job, lambda _, v: found.append(v), Runtime(executor).progress)
            for _ in range(2)
        ]
        for one in running:
            one.result(60)
    assert found == [max(1, cores() // 2)] * 2


def test_threads_never_exceed_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share(1, 10**6) == cores()
    assert share(10**6) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    found = environment(2)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("1", "2")
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"


def test_pieces_that_do_not_come_back_are_noticed(jobs: ModuleType) -> None:
    job = Job(
        what="lazy",
        function=jobs.nothing,
        arguments=(),
        pieces=(Piece(key="a", kind=int),),
        apart=False,
    )
    with pytest.raises(OutputError, match="lazy: 1 of 1 pieces did not come back"):
        Runtime(InProcess()).run(job)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import worker_jobs
from quantcore.runtime.progress import Silent
from quantcore.runtime.worker import run_apart
print(run_apart(worker_jobs.add, 2, 3, progress=Silent(), what="sum").result[0])
"""


@pytest.mark.parametrize("way", ["script", "stdin", "-c"])
def test_a_program_needs_no_guard(tmp_path: Path, way: str) -> None:
    code = SCRIPT.format(folder=str(Path(__file__).parent))
    (tmp_path / "script.py").write_text(code)
    words = {"script": [str(tmp_path / "script.py")], "stdin": ["-"], "-c": ["-c", code]}[way]
    given = code if way == "stdin" else None
    done = subprocess.run([sys.executable, *words], input=given, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr
