import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcore.calibration.weights import MSE_FIRST, MSE_STEPS, weight_range
from quantcore.errors import PolicyError, RangeError
from quantcore.policy.code import Code
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site

from . import reference

WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
    elements=st.floats(-4, 4, width=16).map(float),
)


def site(observer="max", axis=0, parameters=(), symmetric=True, bits=8):
    granularity = "per_tensor" if axis is None else "per_channel"
    policy = TensorPolicy(observer, parameters, Code(bits=bits), symmetric, granularity)
    return Site("w", "weight", policy, ("conv7",), axis)


def rows_of(weight, axis):
    return [np.take(weight, c, axis).ravel() for c in range(weight.shape[axis])]


@settings(max_examples=40, deadline=None)
@given(WEIGHTS, st.sampled_from([0, 1]), st.sampled_from([60.0, 99.99]))
def test_max_and_percentile_are_exact(weight, axis, percentile):
    rows = rows_of(weight, axis)
    assert weight_range(site(axis=axis), weight).amax == tuple(np.abs(r).max() for r in rows)
    where = site("percentile", axis, (("percentile", percentile),))
    wanted = tuple(reference.exact_percentile(r, percentile) for r in rows)
    assert weight_range(where, weight).amax == wanted


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.sampled_from([2, 4, 8]))
def test_mse_is_no_worse_than_any_candidate(weight, bits):
    result = weight_range(site("mse", bits=bits), weight)
    top = 2 ** (bits - 1) - 1
    for row, amax in zip(rows_of(weight, 0), result.amax, strict=True):
        magnitudes = np.abs(row).astype(np.float64)
        if not magnitudes.any():
            assert amax == 0
            continue
        ones = np.ones(len(row))
        errors = [
            reference.squared_error(ones, magnitudes, magnitudes.max() * i / MSE_STEPS, top)
            for i in range(MSE_FIRST, MSE_STEPS + 1)
        ]
        own = reference.squared_error(ones, magnitudes, amax, top)
        tolerance = 1e-4 * min(errors) + 1e-6 * float(magnitudes @ magnitudes)
        assert own <= min(errors) + tolerance


@pytest.mark.parametrize("observer", ["max", "percentile", "mse"])
def test_affine_ranges_hold_zero_and_a_dead_channel_is_zero(observer):
    weight = np.array([[1, 2, 3], [-1, -2, -3], [-1, 0, 2], [0, 0, 0]], np.float32)
    result = weight_range(site(observer, symmetric=False), weight)
    assert result.min[0] == 0 < result.max[0]
    assert result.max[1] == 0 > result.min[1]
    assert (result.min[3], result.max[3]) == (0, 0)
    assert weight_range(site(observer, axis=None), weight).axis is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_weights_name_tensor_layer_and_channel(bad):
    weight = np.ones((3, 2), np.float32)
    weight[1, 1] = bad
    with pytest.raises(RangeError, match="'w' of layer conv7, channel 1: NaN or infinite"):
        weight_range(site(), weight)
    with pytest.raises(RangeError, match=r"channel 0: .*so small"):
        weight_range(site(), np.full((1, 4), 1e-40))
    with pytest.raises(RangeError, match="no values"):
        weight_range(site(), np.ones((3, 0)))


@pytest.mark.parametrize("observer", ["entropy", "moving_average"])
def test_observers_without_a_meaning_for_weights_are_refused(observer):
    with pytest.raises(PolicyError, match=r"'w' of layer conv7: .*max, percentile, mse"):
        weight_range(site(observer), np.ones((2, 2)))
