"""Codes: their names, their limits, and how a policy writes them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import PolicyError
from quantcore.policy.code import INT8, KNOWN, Code
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.tensor import TensorPolicy

CODES = st.sampled_from(sorted(KNOWN.values(), key=lambda code: code.bits))


@given(CODES)
def test_a_code_is_what_its_name_says(code: Code) -> None:
    assert Code.named(code.name) == code
    assert KNOWN[code.name] == code
    assert code == Code(bits=code.bits)


@given(CODES, st.booleans())
def test_the_limits_enclose_as_many_codes_as_the_bits_have(code: Code, symmetric: bool) -> None:
    low, high = code.lowest(symmetric), code.highest(symmetric)
    assert low <= 0 < high
    assert high - low + 1 == 2**code.bits
    assert (low == 0) is not symmetric
    if symmetric:
        assert low == -high - 1  # two's complement: the lowest has no positive counterpart
        assert code.levels == high + 1


def test_int8_is_the_usual_one() -> None:
    assert TensorPolicy().code == INT8 == Code()
    assert (INT8.lowest(True), INT8.highest(True)) == (-128, 127)
    assert (INT8.lowest(False), INT8.highest(False)) == (0, 255)
    assert INT8.levels == 128


@given(CODES)
def test_bits_and_code_mean_the_same_and_are_written_as_bits(code: Code) -> None:
    named = CalibrationPolicy.from_dict({"weights": {"code": code.name}})
    wide = CalibrationPolicy.from_dict({"weights": {"bits": code.bits}})
    assert named == wide
    assert named.weights.bits == code.bits
    assert named.to_dict()["weights"]["bits"] == code.bits
    assert "code" not in named.to_dict()["weights"]
    assert CalibrationPolicy.from_dict(yaml.safe_load(yaml.safe_dump(named.to_dict()))) == named


def test_a_rule_s_code_replaces_the_bits_of_the_general_policy() -> None:
    general = {"activations": {"bits": 4}}
    rules = [{"match": "a", "activations": {"code": "int7"}}]
    policy = CalibrationPolicy.from_dict({**general, "layers": rules})
    assert policy.layers[0].activations == TensorPolicy(
        "percentile", (("percentile", 99.99),), Code(bits=7)
    )


@pytest.mark.parametrize("bits", [1, 9, 0, -8, 8.0, "8", True, None])
def test_a_width_that_no_code_has_is_refused(bits: Any) -> None:
    with pytest.raises(PolicyError, match="bits must be a whole number from 2 to 8"):
        Code(bits=bits)


def test_another_kind_and_a_bare_width_are_refused() -> None:
    with pytest.raises(PolicyError, match="unknown kind of code 'fp'; know int"):
        Code("fp", 8)
    with pytest.raises(PolicyError, match="code must be a Code"):
        TensorPolicy("max", (), 4)  # type: ignore[arg-type]


@given(st.text())
def test_any_other_name_is_refused_in_one_line(name: str) -> None:
    if name not in KNOWN:
        with pytest.raises(PolicyError, match=r"unknown code .*know int2, int3") as caught:
            Code.named(name)
        assert "\n" not in str(caught.value)
