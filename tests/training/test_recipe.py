"""Recipes: every key optional, what is unknown or senseless refused with its name."""

from __future__ import annotations

import pytest

from quantcore.errors import PolicyError
from quantcore.ir.model import FloatModel
from quantcore.testing.models import small_detector
from quantcore.training.recipe import Recipe
from quantcore.training.schedule import rates


def test_an_empty_file_is_the_default(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("")
    assert Recipe.load(path) == Recipe()


def test_it_survives_json() -> None:
    recipe = Recipe(activations="ema", layers=("a.*", "b"), crop=128, rate=1e-4)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepps: 3", r"unknown key 'stepps' \(did you mean 'steps'\?\)"),
        ("activations: learnt", r"activations: must be one of learned, frozen, ema.*'learned'"),
        ("weights: mean", "weights: must be one of max, frozen"),
        ("steps: 0", "steps: must be a whole number from 1"),
        ("steps: 2.5", "steps: must be a whole number"),
        ("steps: true", "steps: must be a whole number"),
        ("rate: 2e-5", "YAML wants 1.0e-5"),
        ("momentum: 1.5", "momentum: must be a number from 0 to 1"),
        ("layers: []", "layers: must be a list"),
        ("layers: [3]", "layers: must be a list"),
        ("{heads: 0, features: 0}", "or there is no loss"),
        ("- 3", "a recipe is a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_file(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=said) as error:
        Recipe.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_layers_are_globs_and_misses_are_told() -> None:
    model = small_detector()
    assert Recipe(layers=("*ft", "head")).trained(model) == {"left", "head"}
    with pytest.raises(PolicyError, match=r"called 'haed' \(did you mean 'head'\?\)"):
        Recipe(layers=("haed",)).trained(model)


def test_training_does_not_widen_what_the_policy_clips(planned) -> None:
    model = small_detector()
    whole, clipped = (
        planned(model, weights={"bits": 4, "observer": observer}).sites
        for observer in ("max", "mse")
    )
    assert (Recipe().of_weights(whole), Recipe().of_weights(clipped)) == ("max", "frozen")
    assert Recipe(weights="frozen").of_weights(whole) == "frozen"
    assert Recipe(weights="max").of_weights(clipped) == "max"


def test_rates_rise_and_fall() -> None:
    recipe = Recipe(steps=100, warmup=10, rate=1.0, scale_rate=0.5)
    found = [rates(recipe, step) for step in range(100)]
    weights = [rate.weights for rate in found]
    assert weights[0] == pytest.approx(0.1)
    assert max(weights) == pytest.approx(weights[9])
    assert sorted(weights[10:], reverse=True) == weights[10:]
    assert 0 < weights[-1] < 1e-3
    assert all(rate.scales == pytest.approx(rate.weights / 2) for rate in found)
    assert all(rate.momentum is None for rate in found)


def test_ranges_follow_until_they_are_frozen() -> None:
    recipe = Recipe(activations="ema", momentum=0.8, freeze_after=0.25, steps=8)
    assert [rates(recipe, step).momentum for step in range(8)] == [0.8, 0.8, *[None] * 6]


def test_weights_of_a_formula_are_not_trained(networks: dict[str, FloatModel]) -> None:
    trained = Recipe().trained(networks["dfl"])
    assert "dfl.conv" not in trained
    assert "box.0.last" in trained
