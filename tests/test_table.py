"""Calibration tables: exact on disk, and clear about what is wrong with a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import OutputError, QuantcoreError, RangeError, TableError
from quantcore.table.table import FORMAT, CalibrationTable, Provenance, TensorRange

FINITE = st.floats(allow_nan=False, allow_infinity=False)
PROVENANCE = {"model": "m", "fingerprint": "f" * 64, "backend": "b"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a table file with some entries; `change` edits the JSON first."""

    def make(entries: Any = None, **changes: Any) -> Path:
        data = {"format": FORMAT, "provenance": PROVENANCE, "tensors": entries or {}, **changes}
        path = tmp_path / "table.json"
        path.write_text(json.dumps(data))
        return path

    return make


@st.composite
def ranges(draw: st.DrawFn) -> TensorRange:
    role = draw(st.sampled_from(["activation", "weight"]))
    axis = draw(st.none() | st.integers(0, 3))
    count = 1 if axis is None else draw(st.integers(1, 5))
    pairs = [sorted((draw(FINITE), draw(FINITE))) for _ in range(count)]
    low, high = tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)
    if axis is None:
        return TensorRange(role, low[0], high[0])
    return TensorRange(role, low, high, axis, draw(st.none() | st.integers(1, 64)))


PROVENANCES = st.builds(
    Provenance,
    st.text(),
    st.text(),
    st.text(),
    st.dictionaries(st.text(), st.text(), max_size=2),
    st.dictionaries(st.text(), st.integers() | FINITE, max_size=2),
    st.lists(st.integers(0, 2**53), max_size=3).map(tuple),
)
TABLES = st.builds(CalibrationTable, st.dictionaries(st.text(), ranges(), max_size=4), PROVENANCES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@given(TABLES)
def test_a_table_reads_back_bit_for_bit(folder: Path, table: CalibrationTable) -> None:
    path = folder / "t.json"
    table.save(path)
    again = CalibrationTable.load(path)
    assert again == table
    assert list(again.tensors) == list(table.tensors)
    # == takes -0.0 for 0.0; the text does not.
    assert again.to_json() == table.to_json()


@given(st.floats(0, allow_infinity=False, allow_nan=False), st.integers(0, 3))
def test_symmetric_ranges_are_symmetric(amax: float, axis: int) -> None:
    one = TensorRange.symmetric("activation", amax)
    assert (one.min, one.max, one.amax) == (-amax, amax, amax)
    many = TensorRange.symmetric("weight", [amax, 1.0], axis)
    assert many.max == many.amax == (amax, 1.0)
    assert many.amax_array.shape == (2,)
    assert one.amax_array.shape == ()


def test_amax_is_the_larger_magnitude() -> None:
    assert TensorRange("activation", -3.0, 1.0).amax == 3.0
    assert TensorRange("weight", (-1.0, 0.0), (2.0, 5.0), 0).amax == (2.0, 5.0)


def test_an_entry_of_amax_alone_loads(write: Write) -> None:
    entries = {
        "x": {"role": "activation", "amax": 1.5},
        "w": {"role": "weight", "amax": [1, 2.5], "axis": 0},
    }
    table = CalibrationTable.load(write(entries))
    assert table.tensors["x"] == TensorRange("activation", -1.5, 1.5)
    assert table.tensors["w"] == TensorRange("weight", (-1.0, -2.5), (1.0, 2.5), 0)
    assert table.provenance.image_ids == ()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"role": "activation", "amax": math.nan}, "not finite"),
        ({"role": "activation", "amax": math.inf}, "not finite"),
        ({"role": "activation", "amax": -1.0}, "negative"),
        ({"role": "activation", "min": 1.0, "max": -1.0}, "reversed"),
        ({"role": "weight", "amax": [1.0, math.nan], "axis": 0}, "channel 1"),
        ({"role": "weight", "min": [1.0], "max": [2.0, 3.0], "axis": 0}, "same shape"),
        ({"role": "bias", "amax": 1.0}, "role"),
    ],
)
def test_an_unusable_range_names_file_and_tensor(
    write: Write, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(RangeError, match=message) as caught:
        CalibrationTable.load(write({"fine": {"role": "activation", "amax": 1}, "bad": entry}))
    assert "table.json" in str(caught.value)
    assert "'bad'" in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"role": "activation"},
        {"amax": 1.0},
        {"role": "activation", "min": 0.0},
        {"role": "activation", "amax": None},
        {"role": "activation", "amax": "much"},
        {"role": "activation", "amax": [1.0, 2.0]},
        {"role": "weight", "amax": 1.0, "axis": 0},
        3,
        None,
        "amax",
    ],
)
def test_a_malformed_entry_names_file_and_tensor(write: Write, entry: Any) -> None:
    with pytest.raises(TableError, match=r"table\.json.*'bad'"):
        CalibrationTable.load(write({"bad": entry}))


def test_a_block_is_written_only_where_it_is_set() -> None:
    plain = TensorRange("weight", (-1.0,), (2.0,), 0)
    assert "block" not in plain.to_dict()
    blocks = TensorRange("weight", (-1.0,), (2.0,), 0, 32)
    assert blocks.to_dict() == {**plain.to_dict(), "block": 32}
    assert TensorRange.from_dict(blocks.to_dict()) == blocks != plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 0}, "block must be a whole number from 1"),
        ({"block": 1.5}, "block must be a whole number from 1"),
        ({"block": True}, "block must be a whole number from 1"),
        ({"block": 32, "axis": None, "amax": 1.0}, "needs the axis"),
    ],
)
def test_a_block_that_is_none_is_refused(
    write: Write, changes: dict[str, Any], message: str
) -> None:
    entry = {"role": "weight", "amax": [1.0], "axis": 0, **changes}
    with pytest.raises(RangeError, match=rf"table\.json.*'bad'.*{message}"):
        CalibrationTable.load(write({"bad": entry}))


@pytest.mark.parametrize("axis", ["first", -1, 1.5, True])
def test_an_axis_that_is_none_is_refused(write: Write, axis: Any) -> None:
    with pytest.raises(QuantcoreError, match=r"table\.json.*'bad'"):
        CalibrationTable.load(write({"bad": {"role": "weight", "amax": [1.0], "axis": axis}}))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "quantcore.table.table/99"},
        {"format": None},
        {"tensors": 3},
        {"tensors": ["x"]},
        {"provenance": None},
        {"provenance": {"model": "m"}},
        {"provenance": {**PROVENANCE, "colour": "red"}},
        {"provenance": {**PROVENANCE, "image_ids": 5}},
        {"provenance": {**PROVENANCE, "image_ids": None}},
    ],
    ids=str,
)
def test_what_is_no_table_is_refused(write: Write, changes: dict[str, Any]) -> None:
    with pytest.raises(TableError, match=r"table\.json"):
        CalibrationTable.load(write(**changes))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:4])
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"table\.json"):
        CalibrationTable.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"gone\.json"):
        CalibrationTable.load(tmp_path / "gone.json")


def test_missing_keys_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"format": FORMAT, "provenance": PROVENANCE}))
    with pytest.raises(TableError, match=r"table\.json.*tensors"):
        CalibrationTable.load(path)


def test_saving_under_a_file_fails_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    table = CalibrationTable({}, Provenance(**PROVENANCE))
    with pytest.raises(OutputError, match="cannot write"):
        table.save(tmp_path / "file" / "table.json")


@pytest.mark.parametrize(
    ("low", "high", "axis"),
    [(0.0, 1.0, 0), ((0.0,), (1.0,), None), (0.0, (1.0,), 0), (math.nan, 1.0, None)],
)
def test_a_range_checks_itself(low: Any, high: Any, axis: int | None) -> None:
    with pytest.raises(RangeError):
        TensorRange("activation", low, high, axis)
