"""What a training step means: inside the range, at its ends, outside."""

from __future__ import annotations

import numpy as np
import pytest

from quantcore.training.reference import (
    Adam,
    cross_entropy,
    fake_quantize,
    gradients,
    quantized_weight,
    weight_scale,
)

SYMMETRIC = (0, -128, 127)


def slope(values, scale=0.5, ends=SYMMETRIC, upstream=None):
    x = np.asarray([values], np.float64)
    upstream = np.ones_like(x) if upstream is None else np.asarray([upstream], np.float64)
    return gradients(x, scale, *ends, upstream)


def test_labels_have_the_gradient_of_the_cross_entropy() -> None:
    random = np.random.default_rng(0)
    x, labels = random.normal(0, 3, (2, 5, 1, 1)), random.random((2, 5, 1, 1))
    loss, slope_ = cross_entropy(x, labels)
    odds = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    assert loss == pytest.approx(-(labels * np.log(odds)).sum())
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        ends = (cross_entropy(x + s * step, labels)[0] for s in (1, -1))
        assert slope_[index] == pytest.approx((next(ends) - next(ends)) / 2e-6, abs=1e-6)
    assert np.isfinite(cross_entropy(1e4 * x, labels)[0])


def test_inside_the_range_gradients_pass_unchanged() -> None:
    by_x, _ = slope([0.1, -3.3, 20.0], upstream=[2.0, -1.0, 0.5])
    assert by_x.tolist() == [[2.0, -1.0, 0.5]]


@pytest.mark.parametrize(
    ("value", "passed"),
    [(63.5, 1), (63.74, 1), (63.76, 0), (-64.0, 1), (-64.24, 1), (-64.26, 0)],
)
def test_up_to_half_a_step_beyond_the_last_code_counts_as_inside(value: float, passed: int) -> None:
    by_x, _ = slope([value])
    assert by_x.item() == passed


def test_the_scale_has_the_gradient_of_lsq() -> None:
    x = [0.3, 100.0, -100.0]
    _, by_log = slope(x)
    # code - value / scale inside, the last code outside.
    expected = (1 - 0.6) + 127 - 128
    assert by_log == pytest.approx(expected * 0.5 / np.sqrt(3 * 127))


def test_an_affine_code_counts_from_its_zero_point() -> None:
    by_x, by_log = slope([-6.0, 130.0, 0.2], ends=(10, 0, 255))
    assert by_x.tolist() == [[0.0, 0.0, 1.0]]
    assert by_log == pytest.approx((-10 + 245 + (0 - 0.4)) * 0.5 / np.sqrt(3 * 255))


def test_the_gradient_of_the_scale_is_that_of_what_rounding_leaves() -> None:
    """With the codes held, y = code * s: the difference quotient of what LSQ takes for linear."""
    x = np.linspace(-80, 80, 41).reshape(1, -1)
    scale, step = 0.5, 1e-6
    codes = np.clip(np.rint(x / scale), -128, 127)
    inside = np.rint(x / scale) == codes

    def surrogate(s: float) -> float:
        # Rounding errors stay what they are; what is coded moves with x / s.
        kept = codes - x / scale
        return float(np.where(inside, (x / s + kept) * s, codes * s).sum())

    expected = (surrogate(scale + step) - surrogate(scale - step)) / (2 * step)
    _, by_log = gradients(x, scale, *SYMMETRIC, np.ones_like(x))
    assert by_log == pytest.approx(expected * scale / np.sqrt(41 * 127), rel=1e-6)


def test_halves_are_rounded_to_even_and_clipped() -> None:
    x = np.array([0.25, 0.75, 1e9, -1e9])
    assert fake_quantize(x, 0.5, *SYMMETRIC).tolist() == [0.0, 1.0, 63.5, -64.0]


def test_a_weight_is_coded_in_its_own_range_by_channel() -> None:
    weight = np.array([[1.0, -0.5], [0.0, 0.0], [-4.0, 0.02]])
    assert weight_scale(weight, 0, 127)[:, 0].tolist() == [1 / 127, 1.0, 4 / 127]
    found = quantized_weight(weight, 0, 127)
    assert found[0].tolist() == pytest.approx([1.0, -64 / 127])
    assert found[2].tolist() == pytest.approx([-4.0, 4 / 127])


def test_the_first_step_of_adam_is_the_rate() -> None:
    value = np.array([1.0, -2.0])
    moved = Adam(np.zeros(2), np.zeros(2)).move(value, np.array([3.0, -0.001]), 0.1)
    np.testing.assert_allclose(moved, [0.9, -1.9], rtol=1e-4)
