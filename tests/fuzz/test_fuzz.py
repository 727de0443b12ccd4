"""The short part of the fuzzing: the same few hundred files for each reader, every time."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("quantcore_yolo")
pytest.importorskip("quantcore_onnx")

from tests.fuzz.readers import READERS, Reader
from tests.fuzz.trying import attempt

#: A process for each file makes this one slower than the others.
COUNTS = {"remote": 30}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_whatever_it_reads_is_read_or_refused_with_one_line(reader: Reader, tmp_path: Path) -> None:
    tried = attempt(reader, tmp_path, range(COUNTS.get(reader.name, 150)), seed=0)
    assert tried.faults == []
    assert tried.refused > tried.inputs / 10
