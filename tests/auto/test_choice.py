"""From what was measured to a decision."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.results.auto import Belief, Tried
from quantcore.results.estimate import Estimate
from quantcore.results.metric import COCO, TOP
from quantcore.studies.auto.choice import Known, belief_of, believed, best, optimism
from quantcore.studies.auto.judging import DRAWS, HALVES, Judged, mean, weights_of

ROWS = 1 + DRAWS + 2 * HALVES


def judged(images: np.ndarray, lost: float = 0.05) -> Judged:
    """A recipe whose drop is the mean of what each image loses."""
    weights = weights_of(len(images))
    return Judged(1, np.full(ROWS, lost), weights @ images / weights.sum(1))


def test_rows_count_images_and_halves_leave_nothing_out() -> None:
    weights = weights_of(7)
    assert weights.shape == (ROWS, 7)
    assert (weights[0] == 1).all()
    assert (weights[1 : 1 + DRAWS].sum(1) == 7).all()
    assert (weights[1 + DRAWS :: 2] + weights[2 + DRAWS :: 2] == 1).all()
    assert (weights[1 + DRAWS :: 2].sum(1) == 3).all()


@given(st.floats(0, 1), st.floats(-0.1, 0.3), st.floats(1e-4, 0.1), st.floats(1e-4, 0.1))
def test_a_belief_lies_between_both_and_is_surer_than_either(
    lost: float, drop: float, deviation: float, other: float
) -> None:
    found = believed(Known(lost, drop, deviation), COCO)
    expected = COCO.drop_per_loss * lost
    low, high = sorted((expected, drop))
    assert low - 1e-12 <= found.drop <= high + 1e-12
    assert found.deviation <= min(deviation, max(COCO.drop_spread * expected, 1e-6)) + 1e-12
    # The less sure the measured drop, the nearer the belief is to what detections let expect.
    sure, unsure = sorted((deviation, other))
    near, far = (believed(Known(lost, drop, d), COCO).drop for d in (unsure, sure))
    assert abs(near - expected) <= abs(far - expected) + 1e-12


def test_without_labels_detections_stand_alone() -> None:
    found = believed(Known(0.1, float("nan"), float("nan")), COCO)
    assert found.drop == pytest.approx(COCO.drop_per_loss * 0.1)


def test_a_share_of_few_images_is_no_surer_than_one_image() -> None:
    """120 images, none of which changed its best class, say little of the next one."""
    one = Judged(1, np.full(ROWS, 0.011), np.zeros(ROWS), 1 / 120)
    found = belief_of(mean([one, one]), TOP)
    assert mean([one, one]).deviation == pytest.approx(1 / 120)
    assert found.drop > 0.002
    assert found.deviation > 0.003
    assert Judged(1, one.lost, one.drop).deviation == 0


def test_choosing_among_equals_is_optimistic_and_choosing_nothing_is_not() -> None:
    random = np.random.default_rng(0)
    noise = [judged(random.normal(0.01, 0.1, 40)) for _ in range(12)]

    def least(beliefs: list) -> int:
        return min(range(len(beliefs)), key=lambda n: beliefs[n].drop)

    assert optimism(noise, least, COCO) > 0.0005
    assert optimism(noise, lambda beliefs: 3, COCO) < optimism(noise, least, COCO) / 3
    assert optimism(noise[:1], least, COCO) == 0


def test_optimism_is_what_selection_hides() -> None:
    """Against recipes whose true drop is known: what the chosen one loses more than it seems to."""
    random = np.random.default_rng(1)
    hidden, estimated = [], []
    for _ in range(30):
        recipes = [judged(random.normal(0.01, 0.1, 40)) for _ in range(8)]
        beliefs = [believed(Known(0.05, float(r.drop[0]), r.deviation), COCO) for r in recipes]
        least = min(range(8), key=lambda n: beliefs[n].drop)
        # A recipe's true drop is 0.01 whatever the images say.
        fair = believed(Known(0.05, 0.01, recipes[least].deviation), COCO)
        hidden.append(fair.drop - beliefs[least].drop)
        pick = lambda b: min(range(8), key=lambda n: b[n].drop)  # noqa: E731
        estimated.append(optimism(recipes, pick, COCO))
    assert np.mean(estimated) == pytest.approx(np.mean(hidden), rel=0.35)


def tried(rung: str, speedup: float, drop: float, lost: float = 0.05) -> Tried:
    """A recipe; asked are a drop of 0.005 and 1.2 times the speed."""
    return Tried(
        rung=rung,
        name="",
        engine="",
        graphs=1,
        lost=Estimate(lost, lost, lost),
        drop=Estimate(drop, drop, drop),
        belief=Belief(drop, 0.001, lost),
        ms=1.0,
        speedup=Estimate(speedup, speedup - 0.05, speedup + 0.05),
        accurate=drop <= 0.005,
        fast=speedup >= 1.2,
    )


@pytest.mark.parametrize(
    ("recipes", "chosen"),
    [
        # The first rung that meets both, however good a later one is.
        ([tried("a", 1.1, 0.001), tried("a", 1.3, 0.004), tried("b", 2.0, 0.001)], 1),
        # In a rung the fastest; of equally fast ones what loses least.
        ([tried("a", 1.3, 0.001), tried("a", 1.6, 0.004)], 1),
        ([tried("a", 1.6, 0.001), tried("a", 1.62, 0.004)], 0),
        # Drops that cannot be told apart go by detections lost.
        ([tried("a", 1.6, 0.0030, 0.09), tried("a", 1.6, 0.0035, 0.05)], 1),
        # None meets both: of the fast the most accurate, else what falls short by the least.
        ([tried("a", 1.5, 0.02), tried("b", 1.3, 0.01), tried("b", 1.0, 0.0)], 1),
        ([tried("a", 1.1, 0.001), tried("b", 0.9, 0.0), tried("b", 1.15, 0.2)], 0),
        # None is fast, none accurate: a little speed is worth no accuracy, but some there must be.
        ([tried("a", 1.10, 0.008), tried("b", 1.15, 0.2), tried("c", 0.97, 0.006)], 0),
        ([tried("a", 0.90, 0.008), tried("b", 0.95, 0.2)], 0),
        ([tried("a", 1.06, 0.1), tried("b", 1.0, 0.009)], 1),
        # Speed that cannot be had without losing everything is none.
        ([tried("a", 1.6, 0.33), tried("b", 1.15, 0.006)], 1),
        ([tried("a", 1.6, 0.05), tried("b", 1.15, 0.006)], 0),
    ],
)
def test_which_recipe_is_taken(recipes: list[Tried], chosen: int) -> None:
    assert best(recipes, [recipe.belief for recipe in recipes], 0.005, 1.2) == chosen


def test_who_wants_to_be_surer_climbs_higher() -> None:
    recipes = [tried("a", 1.5, 0.0045), tried("b", 1.5, 0.001)]
    beliefs = [recipe.belief for recipe in recipes]
    found = [best(recipes, beliefs, 0.005, 1.2, confidence) for confidence in (0.5, 0.9)]
    assert found == [0, 1]
    assert beliefs[0].at(0.5) == pytest.approx(0.0045)
    assert beliefs[0].at(0.9) == pytest.approx(0.0045 + 1.2816 * 0.001, abs=1e-6)
