"""The loop: resumed with the same bits, ended where it diverges, with the last good weights."""

from __future__ import annotations

import numpy as np
import pytest

from quantcore.contracts.training import Rates, TrainingRun, TrainingSpec
from quantcore.errors import TrainingError
from quantcore.runtime.progress import Silent
from quantcore.testing.trained import prepared
from quantcore.training.checkpoint import Checkpoint
from quantcore.training.loop import run_steps
from quantcore.training.recipe import Recipe
from quantcore.training.reference_run import ReferenceRun


class _Fixed:
    """Crops and a teacher of one batch."""

    def __init__(self, targets) -> None:
        self._targets = targets

    def batch(self, step: int):
        return np.random.default_rng(step).random((2, 3, 32, 32), np.float32)

    def images(self, step: int):
        return []

    def targets(self, batch, images):
        return self._targets


class _Scripted(TrainingRun):
    """A run whose losses are given, and whose only weight counts the steps."""

    def __init__(self, losses) -> None:
        super().__init__("scripted", prepared()[0])
        self._losses, self.steps = losses, 0

    def step(self, batch, targets, rates: Rates):
        self.steps += 1
        return {"head.out": self._losses[self.steps - 1], "inside": 0.0}

    def weights(self):
        return {"w": np.asarray([self.steps])}

    def ranges(self):
        return {}

    def state(self):
        return {"steps": np.asarray(self.steps)}

    def restore(self, state):
        self.steps = int(state["steps"])


def steps(run, recipe, path=None, key="k"):
    _, _, _, targets = prepared()
    fixed = _Fixed(targets)
    return run_steps(run, fixed, fixed, recipe, path, key, Silent())


@pytest.fixture
def started():
    model, sites, ranges, _ = prepared()
    spec = TrainingSpec(layers=frozenset(("stem", "head")))
    return lambda: ReferenceRun(model, sites.sites, ranges, spec)


def test_an_interrupted_training_ends_with_the_same_bits(started, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("quantcore.training.loop._BETWEEN", 2)
    recipe, path = Recipe(steps=6, rate=1e-3), tmp_path / "state.npz"
    whole = started()
    expected = steps(whole, recipe)

    class KilledError(Exception):
        pass

    broken = started()
    real, left = broken.step, [5]

    def step(*given):
        if not left[0]:
            raise KilledError
        left[0] -= 1
        return real(*given)

    monkeypatch.setattr(broken, "step", step)
    with pytest.raises(KilledError):
        steps(broken, recipe, path)
    again = started()
    found = steps(again, recipe, path)
    assert found.losses == expected.losses
    for name, values in whole.weights().items():
        np.testing.assert_array_equal(values, again.weights()[name])
    assert whole.ranges() == again.ranges()


def test_the_state_of_another_training_is_passed_over(started, tmp_path) -> None:
    path = tmp_path / "state.npz"
    Checkpoint(np.ones((3, 2)), started().state()).save(path, "other")
    assert Checkpoint.load(path, "k") is None
    assert Checkpoint.load(path, "other") is not None
    assert len(steps(started(), Recipe(steps=2), path).losses.heads) == 2
    path.write_bytes(b"PK broken")
    assert Checkpoint.load(path, "k") is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_ends_it_with_the_last_good_weights(bad: float) -> None:
    run = _Scripted([1.0] * 47 + [bad] * 9)
    found = steps(run, Recipe(steps=56))
    assert found.why is not None
    assert "NaN or infinity at step 48; these are the weights of step 40; lower" in found.why
    assert run.steps == 40


def test_a_loss_that_grows_ends_it() -> None:
    run = _Scripted([1.0] * 30 + [100.0] * 90)
    found = steps(run, Recipe(steps=120))
    assert found.why is not None
    assert found.why.startswith("training diverged at step 35: its loss is")
    assert run.steps == 20


def test_nothing_good_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"NaN .* at step 1, before any weights were good"):
        steps(_Scripted([float("nan")]), Recipe(steps=9))


def test_heads_and_features_are_told_apart() -> None:
    found = steps(_Scripted([3.0, 2.0]), Recipe(steps=2))
    assert found.losses.heads == (3.0, 2.0)
    assert found.losses.features == (0.0, 0.0)
    assert found.why is None
