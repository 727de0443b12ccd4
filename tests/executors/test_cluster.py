"""Where work goes, and what becomes of it when workers do not do as they should."""

from __future__ import annotations

import importlib
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from quantcore.errors import ExecutorError
from quantcore.executors.cluster import ClusterExecutor, ClusterOptions, crew
from quantcore.runtime.jobs import Needs, Runtime
from quantcore.runtime.keys import file_digest
from quantcore.runtime.notes import Note
from quantcore.runtime.store import Store
from quantcore.runtime.trials import trial

sys.path.insert(0, str(Path(__file__).parent))
played = importlib.import_module("played")
Played, PlayedLink, other = played.Played, played.PlayedLink, played.other

ACME = Needs(plugins=(("quantcore.backends", "acme"),))
WITH_ACME = {"quantcore.backends": {"acme": {"acme": "1"}}}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Opens an executor over played workers; all are closed at the end."""
    monkeypatch.setattr(crew, "_LOOK", 0.05)
    made = []

    def opener(*workers, **options):
        link = PlayedLink(tmp_path, *workers)
        executor = ClusterExecutor(link, ClusterOptions(**{"wait": 0.3, **options}))
        made.append(executor)
        return executor, link

    yield opener
    for executor in made:
        executor.close()


def test_a_lost_worker_costs_what_it_was_doing(opened) -> None:
    executor, _ = opened(Played("a", dies=True), Played("b"))
    runtime = Runtime(executor)
    works = [partial(runtime.one, trial([n], name=f"trial {n}")) for n in range(3)]
    with pytest.warns(Note, match=r"worker a: trial \d is done again elsewhere"):
        found = runtime.together(works)
    assert [each.number for each in found] == [0, 1, 2]
    assert executor.retried == 1


def test_a_job_that_kills_two_workers_is_given_up_and_named(opened) -> None:
    has = other(plugins=WITH_ACME)
    executor, _ = opened(Played("a", has, dies=True), Played("b", has, dies=True), Played("c"))
    only = trial([1], name="deadly", needs=ACME)
    with (
        pytest.warns(Note),
        pytest.raises(ExecutorError, match=r"deadly: given up after 2 workers died of it \(\w, \w"),
    ):
        Runtime(executor).run(only)
    assert Runtime(executor).one(trial([2])).number == 2


def test_work_goes_where_its_plugins_are(opened) -> None:
    a, b = Played("a"), Played("b", other(plugins=WITH_ACME))
    executor, _ = opened(a, b)
    for number in range(3):
        Runtime(executor).run(trial([number], needs=ACME))
    assert (a.done, len(b.done)) == ([], 3)


def test_what_nobody_can_do_is_refused_before_any_work(opened) -> None:
    a = Played("a")
    executor, _ = opened(a)
    message = "no worker can do this: a: no backend acme, no GPU"
    with pytest.raises(ExecutorError, match=message):
        executor.check([Needs(), Needs(plugins=ACME.plugins, cuda=True)])
    with pytest.raises(ExecutorError, match="a: no backend acme"):
        Runtime(executor).run(trial([1], needs=ACME))
    assert a.done == []


def test_a_job_whose_last_able_worker_is_lost_is_not_waited_for_forever(opened) -> None:
    executor, _ = opened(Played("a", other(plugins=WITH_ACME), dies=True), Played("b"))
    with pytest.warns(Note), pytest.raises(ExecutorError, match="b: no backend acme"):
        Runtime(executor).run(trial([1], needs=ACME))


def test_a_worker_that_cannot_read_the_images_is_named_and_left_out(opened, tmp_path: Path) -> None:
    path = tmp_path / "images" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(b"1234")
    blind, seeing = Played("blind", blind=f"{path}: no such file"), Played("seeing")
    executor, _ = opened(blind, seeing)
    reads = {path: file_digest(path)}
    runtime = Runtime(executor)
    works = [partial(runtime.one, trial([n], reads=reads, name=f"{n}")) for n in range(6)]
    with pytest.warns(Note, match=r"worker blind is given no work on .*images.*: .*no such file"):
        found = runtime.together(works)
    assert all(each.values[0] == 4 for each in found)
    assert len(blind.done) == 1
    seeing.dies = True
    with pytest.warns(Note), pytest.raises(ExecutorError, match=r"blind: no access to .*images \("):
        runtime.run(trial([6], reads=reads))


def test_other_versions_are_named_and_refused_unless_allowed(opened) -> None:
    old = other(versions={**played.TOLD.versions, "onnxruntime": "1.0"})
    with pytest.raises(ExecutorError, match=r"old: onnxruntime 1.0, here 1\.\d+.*any-versions"):
        opened(Played("old", old), Played("new"))
    executor, _ = opened(Played("old", old), any_versions=True)
    assert Runtime(executor).one(trial([4])).number == 4


def test_times_are_measured_on_like_machines_one_at_a_time(opened) -> None:
    fast = other(machine="m1", host={"processor": "fast"})
    also = other(machine="m2", host={"processor": "fast"})
    slow = other(machine="m3", host={"processor": "slow"})
    workers = [Played("a", fast), Played("b", fast), Played("c", also), Played("d", slow)]
    executor, _ = opened(*workers)
    assert executor.host(Needs()) == {"processor": "fast"}
    runtime = Runtime(executor)
    jobs = [trial([n], seconds=0.05, quiet=n < 5, name=f"part {n}") for n in range(12)]
    found = runtime.together([partial(runtime.one, job) for job in jobs])
    where = {what: worker.told.machine for worker in workers for what in worker.done}
    assert {where[f"part {n}"] for n in range(5)} <= {"m1", "m2"}
    for n in range(5):
        for m in range(12):
            same = m != n and where[f"part {m}"] == where[f"part {n}"]
            beside = found[n].began < found[m].ended and found[m].began < found[n].ended
            assert not (same and beside)


def test_a_lost_scheduler_ends_what_runs(opened) -> None:
    executor, link = opened(Played("a"))
    threading.Timer(0.2, lambda: setattr(link, "gone", True)).start()
    with pytest.raises(ExecutorError, match="the scheduler is gone"):
        Runtime(executor).run(trial([1, 2], seconds=3))
    with pytest.raises(ExecutorError, match="the scheduler is gone"):
        Runtime(executor).run(trial([3]))


def test_a_study_goes_on_with_any_number_of_workers(opened, tmp_path: Path) -> None:
    numbers = range(40)
    with Store(tmp_path / "study") as store:
        executor, _ = opened(*(Played(name) for name in "abc"))
        first = Runtime(executor, store)
        first.run(trial(numbers))
        executor, _ = opened(Played("d"))
        again = Runtime(executor, store)
        values = again.run(trial(numbers))
    assert (first.computed, again.computed, again.reused) == (40, 0, 40)
    assert np.array_equal([each.number for each in values], numbers)


def test_nobody_there_is_told(opened) -> None:
    with pytest.raises(ExecutorError, match="no worker came within 0 s"):
        opened()
