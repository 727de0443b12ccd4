"""Graphs that hardly differ from a quantized one."""

from __future__ import annotations

import numpy as np
import pytest

from quantcore.analysis.neighbours import CHANGE, neighbours
from quantcore.results.estimate import Neighbours
from quantcore.runtime.plain import plain
from quantcore.table.table import CalibrationTable, Provenance, TensorRange


def table(factor: float = 1.0) -> CalibrationTable:
    ranges = {
        "affine": TensorRange("activation", -factor, 3 * factor),
        "channels": TensorRange.symmetric("activation", (1 * factor, 2 * factor), 1),
        "weight": TensorRange.symmetric("weight", (5 * factor, 7 * factor), 0),
        **{f"x{i}": TensorRange.symmetric("activation", factor) for i in range(200)},
    }
    return CalibrationTable(ranges, Provenance("net", "f" * 64, "by-hand"))


def test_ranges_change_by_about_one_percent_and_weights_do_not() -> None:
    given = table()
    first, second = neighbours(given, 2)
    assert first.tensors["weight"] == given.tensors["weight"]
    assert first.tensors != second.tensors
    assert first.provenance == given.provenance
    moves = [np.log(found.tensors[f"x{i}"].amax) for found in (first, second) for i in range(200)]
    assert np.std(moves) == pytest.approx(CHANGE, rel=0.15)
    affine = first.tensors["affine"]
    assert affine.max / affine.min == pytest.approx(-3)
    low, high = first.tensors["channels"].amax
    assert high / low == pytest.approx(2)
    assert first.tensors["channels"].axis == 1


def test_two_tables_are_changed_alike() -> None:
    for one, other in zip(neighbours(table(), 3), neighbours(table(2.0), 3), strict=True):
        for name, found in one.tensors.items():
            assert 2 * np.asarray(found.amax) == pytest.approx(other.tensors[name].amax)
    assert list(neighbours(table(), 0)) == []


def test_the_mean_and_its_standard_error() -> None:
    found = Neighbours((-0.01, -0.02, -0.03, -0.02))
    assert found.mean == pytest.approx(-0.02)
    assert found.error == pytest.approx(np.sqrt(2e-4 / 3) / 2)
    assert plain(found) == {
        "mean": found.mean,
        "error": found.error,
        "differences": [-0.01, -0.02, -0.03, -0.02],
    }
