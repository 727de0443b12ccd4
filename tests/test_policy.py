"""Calibration policies: what YAML may say, what it means, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import PolicyError
from quantcore.ir.model import NEUTRAL_OPS, LayerInfo
from quantcore.policy.code import Code
from quantcore.policy.policy import OBSERVERS, CalibrationPolicy, LayerRule, TensorPolicy

EXAMPLE = """
implementation: native            # native | portable
activations: {observer: percentile, percentile: 99.99, bits: 8, symmetric: true}
weights: {observer: max, granularity: per_channel}
images: 80
batch_size: 4
seed: 0
layers:                           # first match wins; match is a glob on layer names, or op:NAME
  - {match: "model.24.*", quantize: false}
  - {match: "op:linear", activations: {observer: max}}
"""


def layer(name: str, op: str = "conv2d") -> LayerInfo:
    return LayerInfo(name, op, ("x",), ("w",), ("y",))


def test_the_example_of_the_documentation_parses(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(EXAMPLE)
    policy = CalibrationPolicy.load(path)
    assert policy.activations == TensorPolicy("percentile", (("percentile", 99.99),))
    assert policy.weights == TensorPolicy("max", granularity="per_channel")
    assert (policy.images, policy.batch_size, policy.seed) == (80, 4, 0)
    assert [rule.match for rule in policy.layers] == ["model.24.*", "op:linear"]
    assert policy.layers[0].quantize is False
    assert policy.layers[1].activations == TensorPolicy("max")


@pytest.mark.parametrize("text", ["", "{}", "# nothing\n", "layers:\n", "activations:\n"])
def test_every_key_is_optional(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    assert CalibrationPolicy.load(path) == CalibrationPolicy()


def test_defaults_are_symmetric_int8_with_weights_per_channel() -> None:
    policy = CalibrationPolicy()
    assert policy.weights.granularity == "per_channel"
    assert policy.activations.granularity == "per_tensor"
    assert policy.activations.bits == policy.weights.bits == 8
    assert policy.activations.symmetric
    assert policy.implementation == "native"


PORTABLE = {"implementation": "portable"}
REFUSED: list[tuple[Any, str]] = [
    ({"activation": {}}, "unknown key 'activation' (did you mean 'activations'?)"),
    ({"activations": {"obsever": "max"}}, "did you mean 'observer'"),
    ({"activations": {"observer": "percentil"}}, "did you mean 'percentile'"),
    ({"activations": {"observer": "magic"}}, "unknown observer 'magic'; know max, percentile"),
    ({"activations": {"percentile": -1}}, "percentile must lie in (0, 100]"),
    ({"activations": {"percentile": 0}}, "percentile must lie in (0, 100]"),
    ({"activations": {"percentile": 100.1}}, "percentile must lie in (0, 100]"),
    ({"activations": {"percentile": float("nan")}}, "percentile must be a number"),
    ({"activations": {"percentile": float("inf")}}, "percentile must be a number"),
    ({"activations": {"percentile": "99"}}, "percentile must be a number"),
    ({"activations": {"percentile": True}}, "percentile must be a number"),
    ({"activations": {"observer": "max", "percentile": 99}}, "'max' has no parameter 'percentile'"),
    ({"activations": {"bins": 0}}, "bins must be a whole number from 1"),
    ({"activations": {"bins": 2.5}}, "bins must be a whole number from 1"),
    ({"activations": {"observer": "moving_average", "momentum": 1}}, "momentum must lie in [0, 1)"),
    ({"activations": {"bits": 1}}, "bits must be a whole number from 2 to 8"),
    ({"activations": {"bits": 9}}, "bits must be a whole number from 2 to 8"),
    ({"activations": {"bits": "8"}}, "bits must be a whole number"),
    ({"activations": {"bits": True}}, "bits must be a whole number"),
    (
        {"activations": {"code": "fp8_e4m3"}},
        "activations: unknown code 'fp8_e4m3'; know int2, int3",
    ),
    ({"weights": {"code": "nf4"}}, "weights: unknown code 'nf4'; know int2, int3"),
    ({"weights": {"code": "uint8"}}, "unknown code 'uint8' (did you mean 'int8'?); know int2"),
    ({"weights": {"code": 8}}, "unknown code 8; know int2"),
    ({"weights": {"code": ["int8"]}}, "know int2"),
    ({"weights": {"code": "int9"}}, "unknown code 'int9' (did you mean"),
    ({"weights": {"code": "int8", "bits": 8}}, "weights: give `code` or `bits`, not both"),
    ({"activations": {"symmetric": 1}}, "symmetric must be true or false"),
    ({"weights": {"granularity": "per_layer"}}, "granularity must be per_tensor or per_channel"),
    ({"activations": "max"}, "activations: must be a mapping"),
    ({"implementation": "mine"}, "implementation must be native or portable"),
    ({"arithmetic": "float16"}, "arithmetic must be float32 or float64"),
    ({"arithmetic": "float64"}, "float64 needs `implementation: portable`"),
    ({"images": 0}, "images must be a whole number from 1"),
    ({"images": 2.0}, "images must be a whole number"),
    ({"batch_size": -1}, "batch_size must be a whole number from 1"),
    ({"seed": -1}, "seed must be a whole number from 0"),
    ({"layers": {"match": "x"}}, "layers: must be a list"),
    ({"layers": ["model.*"]}, "layers[0]: a rule is a mapping"),
    ({"layers": [{"quantize": False}]}, "layers[0]: needs `match`"),
    ({"layers": [{"match": ""}]}, "layers[0]: needs `match`"),
    ({"layers": [{"match": 3}]}, "layers[0]: needs `match`"),
    ({"layers": [{"match": "a"}, {"match": "b", "skip": 1}]}, "layers[1]: unknown key 'skip'"),
    ({"layers": [{"match": "op:conv3d"}]}, "unknown op in 'op:conv3d' (did you mean 'conv2d'?); "),
    ({"layers": [{"match": "op:scan"}]}, "layers[0]: unknown op in 'op:scan'; know add"),
    ({"layers": [{"match": "a", "quantize": "no"}]}, "quantize must be true or false"),
    ({"layers": [{"match": "a", "weights": {"bits": 0}}]}, "layers[0].weights: bits"),
    (["max"], "a policy is a mapping"),
    ({"observers": ["max", "mse"]}, "several in one pass need `implementation: portable`"),
    ({**PORTABLE, "observers": "max"}, "observers: must be a list such as"),
    ({**PORTABLE, "observers": []}, "observers: must be a list such as"),
    ({**PORTABLE, "observers": ["maxx"]}, "observers[0]: unknown observer 'maxx' (did you mean"),
    ({**PORTABLE, "observers": ["max", {"magic": 3}]}, "observers[1]: unknown observer 'magic'"),
    ({**PORTABLE, "observers": [{"mse": 3}]}, "observers[0]: name the parameter, `mse: {"),
    ({**PORTABLE, "observers": [{"mse": {"bin": 3}}]}, "observers[0]: unknown key 'bin'"),
    ({**PORTABLE, "observers": [{"mse": 1, "max": 2}]}, "observers[0]: must be a name, or one"),
    ({**PORTABLE, "observers": [7]}, "observers[0]: must be a name, or one"),
    ({**PORTABLE, "observers": [{"percentile": 101}]}, "observers[0]: percentile must lie in"),
    ({**PORTABLE, "observers": ["max", "mse", "max"]}, "observers: max is there twice"),
    (
        {**PORTABLE, "observers": ["max"], "activations": {"observer": "mse"}},
        "give `observers` or `activations.observer`, not both",
    ),
    (
        {**PORTABLE, "observers": ["max"], "layers": [{"match": "a", "activations": {"bits": 7}}]},
        "layers[0].activations: name its observer",
    ),
]


@pytest.mark.parametrize(("data", "message"), REFUSED, ids=[str(d)[:60] for d, _ in REFUSED])
def test_refusals_say_where_and_what(data: Any, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        CalibrationPolicy.from_dict(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("observer", [5, None, ["max"], {"max": 1}])
def test_an_observer_that_is_no_word_is_called_unknown(observer: Any) -> None:
    with pytest.raises(PolicyError, match="observer"):
        CalibrationPolicy.from_dict({"activations": {"observer": observer}})


@pytest.mark.parametrize(
    "content",
    [b"layers: [", b"\xff\xfe\x00bad", b"- a\n- b\n", b"seed: 2020-13-45\n", b"{percentil: 1}"],
    ids=["syntax", "encoding", "list", "date", "key"],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(PolicyError, match=r"mine\.yaml") as caught:
        CalibrationPolicy.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(PolicyError, match=r"no such file|is a directory"):
        CalibrationPolicy.load(tmp_path / name)


def test_a_pickle_in_yaml_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"seed: !!python/object/apply:pathlib.Path.touch ['{tmp_path}/hit']\n")
    with pytest.raises(PolicyError, match="not YAML"):
        CalibrationPolicy.load(path)
    assert not (tmp_path / "hit").exists()


def test_the_first_matching_rule_wins() -> None:
    rules = [{"match": "m.1.*", "quantize": True}, {"match": "m.*", "quantize": False}]
    policy = CalibrationPolicy.from_dict({"layers": rules})
    first, second = policy.rule_for(layer("m.1.conv")), policy.rule_for(layer("m.2.conv"))
    assert first is not None
    assert first.quantize is True
    assert second is not None
    assert second.quantize is False
    assert policy.rule_for(layer("n.1")) is None


def test_globs_match_case_and_ops_match_whole_words() -> None:
    assert LayerRule("m.?").matcher.matches_layer(layer("m.1"))
    assert not LayerRule("M.?").matcher.matches_layer(layer("m.1"))
    assert not LayerRule("m").matcher.matches_layer(layer("m.1"))
    assert LayerRule("op:add").matcher.matches_layer(layer("m.1", "add"))
    assert not LayerRule("op:conv2d").matcher.matches_layer(layer("m.1", "conv_transpose2d"))


@pytest.mark.parametrize(
    ("rule", "op", "quantized"),
    [
        ({"match": "*"}, "conv2d", True),
        ({"match": "*"}, "add", False),
        ({"match": "*", "activations": {"observer": "max"}}, "add", False),
        ({"match": "*", "quantize": True}, "add", True),
        ({"match": "op:add", "activations": {"observer": "max"}}, "add", True),
        ({"match": "op:add", "activations": {}, "quantize": False}, "add", False),
        ({"match": "*", "quantize": False}, "conv2d", False),
    ],
)
def test_what_a_rule_quantizes(rule: dict[str, Any], op: str, quantized: bool) -> None:
    policy = CalibrationPolicy.from_dict({"layers": [rule]})
    assert policy.layers[0].quantizes(layer("m", op)) is quantized


def test_a_rule_that_names_no_layer_is_refused_with_a_suggestion() -> None:
    policy = CalibrationPolicy.from_dict({"layers": [{"match": "model.O.conv"}]})
    with pytest.raises(PolicyError, match=r"'model\.O\.conv' matches no layer.*'model\.0\.conv'"):
        policy.check_rules([layer("model.0.conv")])


def test_an_op_rule_may_match_nothing() -> None:
    rules = [{"match": "op:linear", "quantize": False}, {"match": "m.*"}]
    CalibrationPolicy.from_dict({"layers": rules}).check_rules([layer("m.0")])


def test_a_later_rule_that_is_shadowed_still_counts_as_matching() -> None:
    rules = [{"match": "m.*"}, {"match": "m.0", "quantize": False}]
    CalibrationPolicy.from_dict({"layers": rules}).check_rules([layer("m.0")])


def test_another_observer_drops_the_parameters_of_the_old_one() -> None:
    base = TensorPolicy("percentile", (("bins", 512), ("percentile", 99.0)))
    assert base.override({"observer": "max"}, "x").parameters == ()
    assert base.override({"observer": "entropy", "bins": 64}, "x").parameters == (("bins", 64),)
    kept = base.override({"observer": "percentile", "percentile": 99.9}, "x")
    assert kept.parameters == (("bins", 512), ("percentile", 99.9))
    assert base.parameter("percentile", 0.0) == 99.0
    assert base.parameter("stride", 7) == 7


def test_a_rule_builds_on_the_general_policy() -> None:
    data = {
        "activations": {"observer": "percentile", "percentile": 99.0},
        "layers": [{"match": "a", "activations": {"bits": 4}}],
    }
    rule = CalibrationPolicy.from_dict(data).layers[0]
    assert rule.activations == TensorPolicy("percentile", (("percentile", 99.0),), Code(bits=4))
    assert rule.weights is None


VALUES = {
    "percentile": st.floats(0, 100, exclude_min=True),
    "momentum": st.floats(0, 1, exclude_max=True),
    "bins": st.integers(1, 10_000),
    "start_bin": st.integers(1, 10_000),
    "stride": st.integers(1, 100),
}


@st.composite
def tensor_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Any of the keys that YAML may hold for a tensor."""
    observer = draw(st.sampled_from(sorted(OBSERVERS)))
    known = sorted(OBSERVERS[observer])
    names = draw(st.sets(st.sampled_from(known))) if known else ()
    keys = {
        "observer": observer,
        "bits": draw(st.integers(2, 8)),
        "symmetric": draw(st.booleans()),
        "granularity": draw(st.sampled_from(["per_tensor", "per_channel"])),
    }
    chosen = {key: keys[key] for key in keys if key == "observer" or draw(st.booleans())}
    return {**chosen, **{name: draw(VALUES[name]) for name in names}}


MATCHES = st.sampled_from([f"op:{op}" for op in NEUTRAL_OPS.values()]) | st.text(min_size=1).filter(
    lambda text: not text.startswith("op:")
)
TENSORS = {"activations": tensor_keys(), "weights": tensor_keys()}
RULES = st.fixed_dictionaries({"match": MATCHES}, optional={"quantize": st.booleans(), **TENSORS})
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        **TENSORS,
        "layers": st.lists(RULES, max_size=3),
        "implementation": st.sampled_from(["native", "portable"]),
        "arithmetic": st.just("float32"),
        "images": st.integers(1, 10**6),
        "batch_size": st.integers(1, 512),
        "seed": st.integers(0, 2**63),
    },
)


@given(POLICIES)
def test_a_policy_reads_back_what_it_writes(data: dict[str, Any]) -> None:
    policy = CalibrationPolicy.from_dict(data)
    assert CalibrationPolicy.from_dict(policy.to_dict()) == policy
    for key in ("images", "batch_size", "seed", "implementation"):
        assert policy.to_dict()[key] == data.get(key, getattr(CalibrationPolicy(), key))
    assert [rule.match for rule in policy.layers] == [r["match"] for r in data.get("layers", [])]


def test_a_policy_reads_back_through_yaml(tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    policy = CalibrationPolicy.from_dict(yaml.safe_load(EXAMPLE))
    path.write_text(yaml.safe_dump(policy.to_dict()))
    assert CalibrationPolicy.load(path) == policy


@pytest.mark.parametrize(
    ("keys", "arithmetic"),
    [
        ({}, "float32"),
        (PORTABLE, "float64"),
        ({**PORTABLE, "arithmetic": "float32"}, "float32"),
        ({**PORTABLE, "arithmetic": "float64"}, "float64"),
    ],
)
def test_portable_means_float64_unless_it_is_said(keys: dict[str, Any], arithmetic: str) -> None:
    policy = CalibrationPolicy.from_dict(keys)
    assert policy.calibrates_in == policy.to_dict()["arithmetic"] == arithmetic
    # Where nothing was said, another implementation has its own.
    if "arithmetic" not in keys:
        assert replace(policy, implementation="portable").calibrates_in == "float64"
        assert replace(policy, implementation="native").calibrates_in == "float32"


def test_policies_are_told_apart_by_what_they_calibrate_in() -> None:
    portable, single, double = (
        CalibrationPolicy.from_dict({**PORTABLE, **keys})
        for keys in ({}, {"arithmetic": "float32"}, {"arithmetic": "float64"})
    )
    assert portable == double != single
    with pytest.raises(PolicyError, match="calibrates_in"):
        CalibrationPolicy.from_dict({"calibrates_in": "float64"})


def test_several_observers_are_a_policy_each() -> None:
    policy = CalibrationPolicy.from_dict(
        {
            **PORTABLE,
            "activations": {"bits": 7},
            "observers": [
                "max",
                {"percentile": 99.9},
                {"entropy": {"stride": 2, "bits": 8}},
                {"observer": "mse", "symmetric": False},
                {"moving_average": None},
            ],
            "layers": [{"match": "a", "activations": {"observer": "percentile"}}],
            "seed": 3,
        }
    )
    labels = [one.activations.label for one in policy.each()]
    assert labels == [
        "max-7bit",
        "percentile-99.9-7bit",
        "entropy-stride-2",
        "mse-7bit-affine",
        "moving_average-7bit",
    ]
    assert policy.activations == policy.observers[0]
    for one in policy.each():
        assert one.layers == policy.layers
        assert one.layers[0].activations == TensorPolicy("percentile", code=Code(bits=7))
        assert (one.seed, one.observers, one.implementation) == (3, (), "portable")
        assert one.each() == (one,)
    assert CalibrationPolicy.from_dict(policy.to_dict()) == policy
    assert CalibrationPolicy.from_dict(yaml.safe_load(yaml.safe_dump(policy.to_dict()))) == policy


def test_the_observers_of_the_documentation_parse() -> None:
    text = "{implementation: portable, observers: [max, percentile: 99.99, mse]}"
    policy = CalibrationPolicy.from_dict(yaml.safe_load(text))
    assert [one.label for one in policy.observers] == ["max", "percentile-99.99", "mse"]
