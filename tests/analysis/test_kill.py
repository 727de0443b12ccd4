"""A study that is really killed goes on where it stopped, and ends as if nothing had been."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from quantcore.model import ModelOptions
from quantcore.pipeline import load_model
from quantcore.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.qdq.profiles import MINIMAL

#: The command line, but so slow at writing findings that there is time for a kill.
SLOWLY = """
import time
from quantcore.analysis.journal import Journal
from quantcore.cli import main
put = Journal.put
def slowly(*given):
    put(*given)
    time.sleep(0.05)
Journal.put = slowly
main()
"""

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


@pytest.fixture
def start(shared_squares: SimpleNamespace, table: Callable, tmp_path: Path) -> Callable:
    """Starts a study in a process of its own."""
    model = load_model("onnx", shared_squares.weights, ModelOptions(preset="yolox"))
    amax = {layer.inputs[0]: 9.0 for layer in model.layers if layer.weights}
    found = table(
        model,
        plan(model, CalibrationPolicy(placement=MINIMAL)),
        amax={**amax, model.input_name: 255.0},
    )
    found.save(tmp_path / "table.json")

    def run(program: list[str], command: str, *options: object) -> subprocess.Popen:
        given = ["--data", shared_squares.data, "--table", tmp_path / "table.json", *options]
        words = [*program, command, *shared_squares.model, *map(str, given)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen([sys.executable, *words], stdout=quiet, stderr=quiet)

    return run


def kill_midway(process: subprocess.Popen, journal: Path, lines: int) -> bytes:
    """Kills a process once its journal has so many lines; gives the whole lines of the file."""
    end = time.monotonic() + 60
    while not journal.is_file() or journal.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < end, "the study wrote nothing"
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    content = journal.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def units(journal: Path) -> Counter:
    lines = map(json.loads, journal.read_text().splitlines())
    return Counter((line["key"], line["image"]) for line in lines)


@pytest.mark.parametrize(
    ("command", "journal", "result", "options", "lines"),
    [
        ("sensitivity", "journal.jsonl", "sensitivity.json", [], 5),
        # Near the end: the ranking is done, and the kill hits the search.
        (
            "mixed",
            "p.mixed/journal.jsonl",
            "p.mixed/mixed.json",
            ["--max-drop", 0, "--min-int8", 0, "--confidence", 0.5],
            None,
        ),
    ],
)
def test_a_killed_study_recomputes_nothing_and_ends_the_same(
    start: Callable,
    tmp_path: Path,
    command: str,
    journal: str,
    result: str,
    options: list[object],
    lines: int | None,
) -> None:
    def study(program: list[str], name: str) -> subprocess.Popen:
        out = tmp_path / name
        where = out / "p.yaml" if command == "mixed" else out
        return start(program, command, "--out", where, "--workers", "2", *options)

    assert study(["-m", "quantcore"], "whole").wait() in (0, 1)
    wanted = units(tmp_path / "whole" / journal)
    middle = lines or len(wanted) - 9
    before = kill_midway(study(["-c", SLOWLY], "killed"), tmp_path / "killed" / journal, middle)
    assert middle <= before.count(b"\n") < len(wanted)
    assert not (tmp_path / "killed" / result).exists()

    assert study(["-m", "quantcore"], "killed").wait() in (0, 1)
    assert (tmp_path / "killed" / journal).read_bytes().startswith(before)
    # Every unit once: what was finished has not been computed again.
    assert units(tmp_path / "killed" / journal) == wanted
    assert set(wanted.values()) == {1}
    assert (tmp_path / "killed" / result).read_text() == (tmp_path / "whole" / result).read_text()
