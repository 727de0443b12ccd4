"""Results as JSON holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.results import (
    audit,
    comparison,
    difference,
    estimate,
    evaluation,
    mixed,
    portability,
    sensitivity,
)
from quantcore.runtime.plain import json_text, own, plain

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)


@dataclass(frozen=True)
class Pair:
    first: Any
    second: Any


@dataclass(frozen=True)
class Told:
    """Its JSON form is another than its fields."""

    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {**own(self), "milliseconds": 1e3 * self.seconds}


@given(VALUES, VALUES)
def test_any_value_is_valid_json_and_stays_what_it_is(first: Any, second: Any) -> None:
    found = plain(Pair(first, second))
    assert list(found) == ["first", "second"]
    assert json.loads(json_text(Pair(first, second))) == found
    assert plain(found) == found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_none_at_any_depth(value: float) -> None:
    assert plain(Pair((value, [value]), {"x": value})) == {
        "first": [None, [None]],
        "second": {"x": None},
    }


def test_any_mapping_becomes_a_dict() -> None:
    found = plain(MappingProxyType({"x": (1, 2)}))
    assert type(found) is dict
    assert found == {"x": [1, 2]}


def test_a_form_of_its_own_is_used_wherever_the_value_stands() -> None:
    form = {"seconds": 2.0, "milliseconds": 2000.0}
    assert plain(Told(2.0)) == form
    assert plain(Pair([Told(2.0)], {"x": Told(2.0)})) == {"first": [form], "second": {"x": form}}


ROOMS = (audit, comparison, difference, estimate, evaluation, mixed, portability, sensitivity)
RESULTS = sorted(
    {
        kind
        for room in ROOMS
        for kind in vars(room).values()
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == room.__name__
    },
    key=lambda kind: kind.__qualname__,
)


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_a_result_of_many_fields_takes_them_by_name(kind: type[Any]) -> None:
    assert sum(not entry.kw_only for entry in fields(kind)) <= 4


def test_the_results_are_there() -> None:
    assert len(RESULTS) > 20
    assert isinstance(plain(estimate.Estimate(0.1, 0.0, math.nan)), Mapping)
