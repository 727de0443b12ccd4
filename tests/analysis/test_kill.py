"""A study that is really killed goes on where it stopped, and ends as if nothing had been."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from quantcore_onnx import OnnxOptions

from quantcore.pipeline import load_model
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import plan

#: The command line, but so slow at writing findings that there is time for a kill.
SLOWLY = """
import time
from quantcore.commands.cli import main
from quantcore.runtime.store import Store
put = Store.put
def slowly(*given):
    put(*given)
    time.sleep(0.05)
Store.put = slowly
main()
"""

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


@pytest.fixture
def words(shared_squares: SimpleNamespace, table: Callable, tmp_path: Path) -> Callable:
    """The words of a command that studies a small detector."""
    model = load_model("onnx", shared_squares.weights, OnnxOptions(preset="yolox"))
    amax = {layer.inputs[0]: 9.0 for layer in model.layers if layer.weights}
    found = table(
        model,
        plan(model, CalibrationPolicy(placement=MINIMAL)),
        amax={**amax, model.input_name: 255.0},
    )
    found.save(tmp_path / "table.json")

    def make(command: str, *options: object) -> list[str]:
        given = ["--data", shared_squares.data, "--table", tmp_path / "table.json", *options]
        return [command, *shared_squares.model, *map(str, given)]

    return make


@pytest.fixture
def start(words: Callable) -> Callable:
    """Starts a study in a process of its own."""

    def run(program: list[str], command: str, *options: object) -> subprocess.Popen:
        quiet = subprocess.DEVNULL
        call = [sys.executable, *program, *words(command, *options)]
        return subprocess.Popen(call, stdout=quiet, stderr=quiet)

    return run


def kill_midway(process: subprocess.Popen, store: Path, records: int) -> None:
    """Kills a process once its store has so many records."""
    end = time.monotonic() + 60
    while len(units(store)) < records:
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < end, "the study wrote nothing"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def units(store: Path) -> dict[str, tuple[float, bytes]]:
    """When each record was made, and its content."""
    if not store.is_file():
        return {}
    with contextlib.closing(sqlite3.connect(store, timeout=60)) as database:
        try:
            rows = database.execute("SELECT key, made, value FROM work").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return {}
    return {key: (made, value) for key, made, value in rows}


def found(record: Path) -> dict:
    """A study's record, without when and by which command it was made."""
    return {k: v for k, v in json.loads(record.read_text()).items() if k != "manifest"}


@pytest.mark.parametrize(
    ("command", "store", "result", "options", "records"),
    [
        ("sensitivity", "work.sqlite", "sensitivity.json", [], 5),
        # Near the end: the ranking is done, and the kill hits the search.
        (
            "mixed",
            "p.mixed/work.sqlite",
            "p.mixed/mixed.json",
            ["--max-drop", 0, "--min-int8", 0, "--confidence", 0.5],
            None,
        ),
    ],
)
def test_a_killed_study_recomputes_nothing_and_ends_the_same(
    start: Callable,
    words: Callable,
    cli: Callable,
    in_process: None,
    tmp_path: Path,
    command: str,
    store: str,
    result: str,
    options: list[object],
    records: int | None,
) -> None:
    def asked(name: str) -> list[object]:
        out = tmp_path / name
        where = out / "p.yaml" if command == "mixed" else out
        return [command, "--out", where, "--workers", "2", *options]

    assert cli(*words(*asked("whole"))).code in (0, 1)
    wanted = units(tmp_path / "whole" / store)
    middle = records or len(wanted) - 9
    process = start(["-c", SLOWLY], *asked("killed"))
    kill_midway(process, tmp_path / "killed" / store, middle)
    before = units(tmp_path / "killed" / store)
    assert middle <= len(before) < len(wanted)
    assert not (tmp_path / "killed" / result).exists()

    assert start(["-m", "quantcore"], *asked("killed")).wait() in (0, 1)
    after = units(tmp_path / "killed" / store)
    # What was finished has not been computed again: every record is as it was.
    assert {key: after[key] for key in before} == before
    assert {key: value for key, (_, value) in after.items()} == {
        key: value for key, (_, value) in wanted.items()
    }
    assert found(tmp_path / "killed" / result) == found(tmp_path / "whole" / result)


def test_two_equal_commands_in_one_folder_end_alike(
    start: Callable, words: Callable, cli: Callable, in_process: None, tmp_path: Path
) -> None:
    program, options = ["-m", "quantcore"], ("sensitivity", "--workers", "1", "--out")
    assert cli(*words(*options, tmp_path / "alone")).code == 0
    both = [start(program, *options, tmp_path / "shared") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    name = "sensitivity.json"
    assert found(tmp_path / "shared" / name) == found(tmp_path / "alone" / name)
