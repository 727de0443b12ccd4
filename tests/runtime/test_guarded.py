"""Work on what strangers wrote: a crash, a hang and a flood of memory are one error each."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from quantcore.errors import CheckpointError
from quantcore.runtime import guarded as module
from quantcore.runtime.guarded import guarded

FILE = Path("some.onnx")


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    module._end()  # one that was started before does not know this path
    return importlib.import_module("worker_jobs")


def test_a_value_comes_back_from_one_process(jobs: ModuleType) -> None:
    first, second = (guarded(jobs.sum_and_process, 2, n, path=FILE, size=9) for n in (3, 4))
    assert (first[0], second[0]) == (5, 6)
    assert first[1] == second[1], "one process serves all calls"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("abort", "ends the process which reads it"),
        ("flood", "takes more memory than a file of its size may"),
        ("spin", "takes more than it may"),
        ("bad_value", r"not valid \(one two\)"),
    ],
)
def test_what_goes_wrong_there_is_one_line_here(
    jobs: ModuleType, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 1)
    with pytest.raises(CheckpointError, match=f"^some.onnx: .*{said}") as caught:
        guarded(getattr(jobs, name), path=FILE, size=9)
    assert "\n" not in str(caught.value)
    assert guarded(jobs.sum_and_process, 1, 1, path=FILE, size=9)[0] == 2, "the next one works"
