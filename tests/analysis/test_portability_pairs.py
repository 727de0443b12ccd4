"""Two tables of a study side by side."""

from __future__ import annotations

import numpy as np
import pytest

from quantcore.runtime.plain import plain
from quantcore.studies.portability.pairs import pair
from quantcore.table.table import CalibrationTable, Provenance, TensorRange


def ranges(*amax: float, axis: int = 0) -> CalibrationTable:
    tensors = {f"t{n}": TensorRange.symmetric("activation", a) for n, a in enumerate(amax)}
    tensors["w"] = TensorRange.symmetric("weight", (sum(amax), 1.0), axis)
    return CalibrationTable(tensors, Provenance("m", "f", "b"))


def test_two_tables_side_by_side() -> None:
    first, second = ranges(1.0, 2.0, 4.0), ranges(1.000001, 1.0, 6.0)
    decibels = {"a": 10.0, "b": 20.0, "c": 30.0}, {"a": 11.0, "b": 31.0, "c": 30.0, "d": 0.0}
    found = pair(("one", "two"), (first, second), decibels)
    assert (found.activations, found.equal, found.layers) == (3, 1, 3)
    assert found.median_ratio == pytest.approx(1.000001)
    assert (found.worst_ratio, found.worst_tensor) == (0.5, "t1")
    assert found.spearman.value == pytest.approx(0.5)
    assert found.kendall.value == pytest.approx(1 / 3)


def test_tables_without_common_layers_have_no_ranks() -> None:
    found = pair(("one", "two"), (ranges(1.0), ranges(2.0, axis=1)), ({"a": 1.0}, {"b": 1.0}))
    assert np.isnan(found.spearman.value)
    assert plain(found)["spearman"] == {"value": None, "low": None, "high": None}
