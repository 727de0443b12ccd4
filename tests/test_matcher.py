"""Matchers: what a rule's `match` names, and what it is about."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import PolicyError
from quantcore.ir.model import NEUTRAL_OPS, LayerInfo
from quantcore.policy.matcher import LAYERS, OP, TENSORS, Matcher
from quantcore.policy.policy import LayerRule

OPS = st.sampled_from(sorted(set(NEUTRAL_OPS.values())))
NAMES = st.text(st.sampled_from("ab.0[]*?:"), max_size=8)
GLOBS = NAMES.filter(lambda text: not text.startswith(("op:", "tensor:")))


def layer(name: str, op: str = "conv2d") -> LayerInfo:
    return LayerInfo(name, op, ("x",), ("w",), ("y",))


@given(GLOBS, NAMES, OPS)
def test_a_glob_is_about_layers_by_name_alone(glob: str, name: str, op: str) -> None:
    found = Matcher.parse(glob)
    assert found == Matcher(LAYERS, glob)
    assert found.matches_layer(layer(name, op)) is fnmatchcase(name, glob)
    assert found.matches_name(name) is fnmatchcase(name, glob)
    assert not found.matches_tensor(name)


@given(OPS, OPS, NAMES)
def test_an_op_is_about_layers_by_op_alone(op: str, other: str, name: str) -> None:
    found = Matcher.parse(f"op:{op}")
    assert found == Matcher(OP, op)
    assert found.matches_layer(layer(name, other)) is (op == other)
    assert not found.matches_name(name)
    assert not found.matches_name(f"op:{op}")
    assert not found.matches_tensor(name)


@given(NAMES, NAMES, OPS)
def test_a_tensor_glob_is_about_tensors_alone(glob: str, name: str, op: str) -> None:
    found = Matcher.parse(f"tensor:{glob}")
    assert found == Matcher(TENSORS, glob)
    assert found.matches_tensor(name) is fnmatchcase(name, glob)
    assert not found.matches_layer(layer(name, op))
    assert not found.matches_name(name)


@given(NAMES)
def test_a_rule_reads_its_match_once_and_keeps_what_was_written(glob: str) -> None:
    for text in (f"tensor:{glob}", f"x{glob}"):
        rule = LayerRule(text)
        assert rule.match == text
        assert rule.matcher == Matcher.parse(text)


@pytest.mark.parametrize("text", ["op:", "op:conv3d", "op:Conv", "op: add"])
def test_an_unknown_op_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match=r"unknown op in '.*know add") as caught:
        LayerRule(text)
    assert "\n" not in str(caught.value)
