import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcore.calibration.collector import Collector
from quantcore.calibration.driver import calibrate
from quantcore.calibration.observers import BINNED, FINDERS
from quantcore.errors import PolicyError, RangeError, TableError
from quantcore.policy.code import Code
from quantcore.policy.policy import OBSERVERS, TensorPolicy
from quantcore.qdq.placement import Plan, Site

from . import reference

RANDOM = np.random.default_rng(3)
IMAGES = (RANDOM.standard_normal((6, 4, 9, 11)) * [[[[1]], [[2]], [[5]], [[3]]]]).astype(np.float32)


def policy(observer="max", **changes):
    parameters = tuple((k, v) for k, v in changes.items() if k in OBSERVERS[observer])
    return TensorPolicy(
        observer,
        parameters,
        Code(bits=changes.get("bits", 8)),
        changes.get("symmetric", True),
        changes.get("granularity", "per_tensor"),
    )


def site(observer="max", tensor="x", axis=None, **changes):
    return Site(tensor, "activation", policy(observer, **changes), ("conv1", "conv2"), axis)


def collected(where, batches, **options):
    collector = Collector([where], **options)
    for batch in batches:
        collector.see(where.tensor, batch)
    return collector


def found(where, *batches):
    return collected(where, batches).ranges()[where.tensor]


def test_every_observer_of_the_policy_language_is_there():
    assert FINDERS.keys() == OBSERVERS.keys()


@pytest.mark.parametrize("observer", sorted(FINDERS))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ranges_are_inside_what_was_seen_and_hold_zero(observer, symmetric, bits):
    result = found(site(observer, symmetric=symmetric, bits=bits), IMAGES)
    amax = float(np.abs(IMAGES).max())
    assert -amax <= result.min < 0 < result.max <= amax
    if symmetric:
        assert result.min == -result.max
    else:
        assert result.min >= IMAGES.min()
        assert result.max <= IMAGES.max()


@pytest.mark.parametrize("observer", sorted(FINDERS))
@pytest.mark.parametrize("symmetric", [True, False])
def test_batch_size_does_not_matter(observer, symmetric):
    where = site(observer, symmetric=symmetric)
    one = found(where, *(IMAGES[i : i + 1] for i in range(6)))
    assert one == found(where, IMAGES[:4], IMAGES[4:]) == found(where, IMAGES)
    if observer != "moving_average":
        assert one == found(where, IMAGES[::-1])


def test_any_memory_order_is_read():
    channels_last = IMAGES.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    where = site("percentile")
    assert found(where, channels_last) == found(where, IMAGES[..., ::-1]) == found(where, IMAGES)


@pytest.mark.parametrize("percentile", [50, 90, 99, 99.9, 99.99, 100])
@pytest.mark.parametrize("kind", ["normal", "heavy", "silu", "uniform"])
def test_percentile_is_within_a_bin_of_the_sorted_one(percentile, kind):
    values = {
        "normal": RANDOM.standard_normal(20_000),
        "heavy": RANDOM.standard_t(3, 20_000),
        "silu": (lambda x: x / (1 + np.exp(-x)))(RANDOM.standard_normal(20_000) * 3),
        "uniform": RANDOM.uniform(-1, 1, 20_000),
    }[kind].astype(np.float32)
    exact = reference.exact_percentile(values, percentile)
    result = found(site("percentile", percentile=percentile), values[None])
    amax = float(np.abs(values).max())
    assert abs(result.amax - exact) <= amax / 4096
    if percentile == 100:
        assert result.amax == exact


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 80), elements=st.floats(-9, 9, width=32)),
    st.sampled_from([80.0, 99.0, 100.0]),
)
def test_percentile_of_any_values_is_within_a_bin_or_refused(values, percentile):
    amax = float(np.abs(values).max())
    exact = reference.exact_percentile(values, percentile)
    try:
        result = found(site("percentile", percentile=percentile), values[None])
    except RangeError:
        result = None
    if 0 < amax < 2.0**-100:  # the bins shrink no further
        assert result is None or result.amax <= amax
    elif result is None:
        assert exact <= amax / 4096
    else:
        assert abs(result.amax - exact) <= amax / 4096


def test_affine_percentile_cuts_each_tail():
    values = np.concatenate([RANDOM.normal(-1, 1, 50_000), RANDOM.normal(4, 2, 50_000)])
    values = values.astype(np.float32)
    result = found(site("percentile", percentile=99, symmetric=False), values[None])
    low, high = np.percentile(values, [0.5, 99.5])
    assert result.min == pytest.approx(low, abs=float(np.abs(values).max()) / 1000)
    assert result.max == pytest.approx(high, abs=float(np.abs(values).max()) / 1000)


def test_moving_average_is_the_textbook_one():
    wanted = None
    for image in IMAGES.astype(np.float64):
        amax = np.abs(image).max()
        wanted = amax if wanted is None else 0.75 * wanted + 0.25 * amax
    assert found(site("moving_average", momentum=0.75), IMAGES).amax == pytest.approx(wanted, 1e-12)


def test_channels_are_observed_by_themselves():
    where = site("percentile", axis=1, granularity="per_channel")
    result = found(where, IMAGES[:2], IMAGES[2:])
    alone = [found(site("percentile"), IMAGES[:, c]).amax for c in range(4)]
    assert list(result.amax) == alone


@pytest.mark.parametrize("observer", sorted(FINDERS))
@pytest.mark.parametrize("symmetric", [True, False])
def test_constant_zero_has_the_range_zero(observer, symmetric):
    result = found(site(observer, symmetric=symmetric), np.zeros((2, 3, 4), np.float32))
    assert (result.min, result.max) == (0.0, 0.0)


@pytest.mark.parametrize("observer", sorted(FINDERS))
@pytest.mark.parametrize("value", [3.0, -3.0, 1.0, 1e30])
def test_a_constant_is_its_own_range(observer, value):
    result = found(site(observer), np.full((2, 300), value, np.float32))
    assert result.amax == pytest.approx(abs(float(np.float32(value))), rel=2e-3)
    assert result.amax <= abs(float(np.float32(value)))


@pytest.mark.parametrize("observer", sorted(FINDERS))
def test_all_negative_values(observer):
    values = -np.abs(IMAGES) - 1
    assert found(site(observer), values) == found(site(observer), -values)
    affine = found(site(observer, symmetric=False), values)
    assert affine.max == 0.0
    assert affine.min < -1


@pytest.mark.parametrize("observer", sorted(FINDERS))
def test_denormal_ranges_are_refused(observer):
    where = site(observer)
    with pytest.raises(RangeError, match=r"'x' of layer conv1, conv2.*so small|first bin"):
        found(where, np.full((1, 9), 1e-40, np.float32))
    with pytest.raises(RangeError, match=r"'x' of layer conv1, conv2"):
        found(where, np.full((1, 9), 1e-37, np.float32))


@pytest.mark.parametrize("observer", ["max", "mse"])
@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_nan_and_infinity_name_tensor_layers_and_image(observer, bad, word):
    values = IMAGES.copy()
    values[4, 2, 3, 1] = bad
    with pytest.raises(RangeError, match=rf"'x' of layer conv1, conv2: {word}.* in image 4 "):
        found(site(observer), values[:3], values[3:])
    collector = Collector([site(observer)])
    with pytest.raises(RangeError, match="image 12 "):
        collector.see("x", values[4:], image=12)


@pytest.mark.parametrize("observer", sorted(FINDERS))
def test_images_where_the_tensor_is_empty_change_nothing(observer):
    empty = np.zeros((1, 4, 0, 11), np.float32)
    assert found(site(observer), empty, IMAGES, empty) == found(site(observer), IMAGES)
    with pytest.raises(RangeError, match="'x' of layer conv1, conv2: empty in all 2 images"):
        found(site(observer), empty, empty)
    with pytest.raises(RangeError, match="never computed"):
        Collector([site(observer)]).ranges()


def test_an_almost_always_zero_tensor_is_refused_by_percentile():
    values = np.zeros((1, 100_000), np.float32)
    values[0, 0] = 10
    with pytest.raises(RangeError, match="nearly all values are zero"):
        found(site("percentile"), values)
    assert found(site("max"), values).amax == 10


def test_several_observers_read_one_pass_and_its_json():
    others = [policy("percentile"), policy("mse"), policy("moving_average", momentum=0.5)]
    collector = collected(site("max"), [IMAGES], extra=others)
    text = json.dumps(collector.to_dict(), allow_nan=False)
    again = Collector.from_dict(json.loads(text), [site("max")])
    for other in others:
        alone = found(site(other.observer, **dict(other.parameters)), IMAGES)
        assert collector.ranges(other)["x"] == again.ranges(other)["x"] == alone
    with pytest.raises(PolicyError, match=r"momentum 0\.9"):
        again.ranges(policy("moving_average"))
    with pytest.raises(TableError, match="format"):
        Collector.from_dict({}, [])


def test_histograms_are_kept_only_when_read_or_asked_for():
    assert collected(site("max"), [IMAGES]).histograms() == {}
    assert set(collected(site("max"), [IMAGES], keep_histograms=True).histograms()) == {"x"}
    with pytest.raises(PolicyError, match="needs a histogram"):
        collected(site("max"), [IMAGES]).ranges(policy("mse"))


@pytest.mark.parametrize("observer", sorted(BINNED))
def test_odd_bins_are_refused_before_anything_is_seen(observer):
    for bins in (1000, 16384):
        with pytest.raises(PolicyError, match="power of two"):
            Collector([site(observer, bins=bins)])


def test_a_calibration_gives_weights_and_activations_in_the_order_of_the_plan(given_session):
    weight = Site("w", "weight", policy("max", granularity="per_channel"), ("conv1",), 0)
    plan = Plan((weight, site("percentile")), (), "portable", "float64")
    model = SimpleNamespace(initializers={"w": np.array([[1, -2], [0, 0]], np.float32)})
    result = calibrate(given_session(model, lambda tensor, batch: batch), plan, [IMAGES])
    assert list(result) == ["w", "x"]
    assert result["w"].amax == (2.0, 0.0)
    assert result["x"] == found(site("percentile"), IMAGES)

    def broken(tensor, batch):
        raise KeyError("boom")

    with pytest.raises(KeyError):
        calibrate(given_session(model, broken), plan, [IMAGES])
    with pytest.raises(RangeError, match="never computed"):
        calibrate(given_session(model, broken), plan, [])
