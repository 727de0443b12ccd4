"""Tables side by side."""

from __future__ import annotations

import math

import pytest

from quantcore.analysis.difference import difference, thresholds
from quantcore.errors import TableError
from quantcore.runtime.plain import plain
from quantcore.table.table import CalibrationTable, Provenance, TensorRange


def table(fingerprint: str = "f", **amax: float | list[float]) -> CalibrationTable:
    tensors = {
        name: TensorRange.symmetric("weight", value, 0)
        if isinstance(value, list)
        else TensorRange.symmetric("activation", value)
        for name, value in amax.items()
    }
    return CalibrationTable(tensors, Provenance("m", fingerprint, "b"))


def test_the_largest_disagreement_comes_first() -> None:
    found = difference(table(a=1, b=2, c=4), table(a=1, b=0.5, c=8))
    assert [(t.tensor, t.ratio) for t in found.tensors] == [("b", 0.25), ("c", 2), ("a", 1)]


def test_per_channel_is_judged_by_its_worst_channel() -> None:
    found = difference(table(w=[1, 2, 4]), table(w=[1, 1, 5])).tensors[0]
    assert (found.first, found.second, found.ratio) == (4, 5, 0.5)


def test_zero_against_zero_agrees_and_against_something_does_not() -> None:
    found = difference(table(w=[0, 1]), table(w=[0, 1])).tensors[0]
    assert found.ratio == 1
    found = difference(table(a=0), table(a=1)).tensors[0]
    assert found.octaves == math.inf
    assert plain(found)["ratio"] is None


def test_what_one_table_lacks_is_named() -> None:
    found = difference(table(a=1, b=1), table(b=1, c=1))
    assert (found.only_first, found.only_second) == (("a",), ("c",))


def test_tables_of_different_graphs_are_refused() -> None:
    with pytest.raises(TableError, match="different graphs"):
        difference(table(a=1), table("g", a=1))
    with pytest.raises(TableError, match="axis"):
        difference(table(a=1), table(a=[1, 2]))
    with pytest.raises(TableError, match="2 channels in one table and 3"):
        difference(table(a=[1, 2]), table(a=[1, 2, 3]))


def test_thresholds_relate_every_backend_to_the_first() -> None:
    rows = thresholds({"x": table(a=2, w=[1.0]), "y": table(a=3, w=[1.0]), "z": table(a=1, w=[1])})
    assert rows == [
        {"tensor": "a", "amax": {"x": 2, "y": 3, "z": 1}, "ratio": {"y": 1.5, "z": 0.5}}
    ]
    assert thresholds({"x": table(a=2)}) == []
