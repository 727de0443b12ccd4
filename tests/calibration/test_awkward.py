"""Any images at all, the awkward ones above all, against slow and obvious float64 definitions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcore.calibration.collector import Collector
from quantcore.calibration.observers import range_of
from quantcore.errors import RangeError
from quantcore.policy.code import Code
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.table.statistics import Statistics

from . import reference

TINY = float(np.finfo(np.float32).tiny)
BINS, START = 64, 8


def image(elements):
    return hnp.arrays(np.float32, st.integers(0, 12), elements=elements)


def floats(low, high):
    return st.floats(float(np.float32(low)), float(np.float32(high)), width=32)


#: Images of one tensor: empty, zero, constant, denormal, negative, huge, or nothing special.
IMAGE = st.one_of(
    st.just(np.zeros(0, np.float32)),
    st.integers(1, 9).map(lambda n: np.zeros(n, np.float32)),
    st.tuples(st.integers(1, 9), floats(-50, 50)).map(lambda t: np.full(*t, np.float32)),
    image(floats(-1e-38, 1e-38)),
    image(floats(-40, -1)),
    image(floats(-3e38, 3e38)),
    image(floats(-9, 9)),
)
#: As activations are: most values near zero, so that thresholds have something to weigh.
PLAIN = st.integers(0, 9999).map(
    lambda seed: np.random.default_rng(seed).normal(0, 2, 80).astype(np.float32)
)
SEVERAL = st.lists(IMAGE, min_size=1, max_size=5) | st.lists(PLAIN, min_size=1, max_size=3)
OBSERVERS = [
    ("max", ()),
    ("percentile", (("percentile", 90),)),
    ("percentile", (("percentile", 100),)),
    ("entropy", (("bins", BINS), ("start_bin", START))),
    ("mse", (("bins", BINS), ("start_bin", START))),
    ("moving_average", (("momentum", 0.75),)),
]


def site(policy):
    return Site("x", "activation", policy, ("conv1", "conv2"))


def extremes(images, policy):
    """The largest range that an observer may give: of all values, or the average of each image."""
    some = [i.astype(np.float64) for i in images if i.size]
    low, high = min(i.min() for i in some), max(i.max() for i in some)
    amax = max(-low, high)
    if policy.observer == "moving_average":
        averages = None
        for one in some:
            new = np.array([one.min(), one.max(), np.abs(one).max()])
            averages = new if averages is None else 0.75 * averages + 0.25 * new
        low, high, amax = averages
    return (-amax, amax) if policy.symmetric else (min(low, 0), max(high, 0))


def magnitudes(images):
    """Counts and width of |x| in uniform bins, trailing empty ones left out."""
    values = [abs(float(v)) for i in images for v in i]
    exponent = max(math.frexp(max(values))[1], -100)
    width = math.ldexp(1.0, exponent - int(math.log2(BINS)))
    counts = np.zeros(int(max(values) / width) + 1, np.int64)
    for value in values:
        counts[int(value / width)] += 1
    return counts, width


def best_threshold(images, policy):
    """The threshold for magnitudes by the definition of `entropy` or of symmetric `mse`."""
    counts, width = magnitudes(images)
    n = len(counts)
    if policy.observer == "entropy":
        levels = 1 << (policy.bits - 1)
        tried = {k: reference.divergence(counts, k, levels) for k in range(START, n + 1)}
        least = min(tried.values(), default=0)
        near = [k for k, v in tried.items() if v <= least + 1e-9 * max(1, abs(least))]
        return [k * width for k in near] or [n * width]
    centres = (np.arange(n) + 0.5) * width
    top = (1 << (policy.bits - 1)) - 1
    unit = centres / width  # squares of 3e38 are no float64 trouble, but sums of them lose digits
    tried = {k: reference.squared_error(counts, unit, unit[k], top) for k in range(START, n)}
    least = min(tried.values(), default=0)
    scale = float(counts @ unit**2)
    return [centres[k] for k, v in tried.items() if v <= least + 1e-12 * scale] or [n * width]


def expect(images, policy):
    """What must come of it: ("error", words), ("exact", ends) or ("inside", ends, thresholds)."""
    if not any(i.size for i in images):
        return ("error", f"empty in all {len(images)} images")
    widest = extremes(images, TensorPolicy("max", symmetric=policy.symmetric))
    if widest == (0, 0):
        return ("exact", (0.0, 0.0))
    if policy.observer in ("max", "moving_average") or policy.parameter("percentile", 0) == 100:
        return ("exact", extremes(images, policy))
    if policy.observer == "entropy" or (policy.observer == "mse" and policy.symmetric):
        return ("inside", widest, best_threshold(images, policy))
    return ("inside", widest, None)


def ranged(collector):
    """The range, or what was said instead."""
    try:
        return collector.ranges()["x"], ""
    except RangeError as error:
        return None, str(error)


def refused_rightly(error, wanted, policy):
    """Whether the rules ask for that error."""
    if wanted[0] == "error":
        return wanted[1] in error
    if "first bin" in error:
        return policy.observer == "percentile"
    low, high = wanted[1]
    steps = (1 << policy.bits) - 1 if not policy.symmetric else (1 << (policy.bits - 1)) - 1
    small = (high - low if not policy.symmetric else high) / steps < TINY
    return "so small" in error and (small or wanted[0] == "inside")


@pytest.mark.parametrize("observer", OBSERVERS, ids=lambda o: f"{o[0]} {dict(o[1])}")
@settings(max_examples=60)
@given(SEVERAL, st.integers(2, 8), st.booleans(), st.booleans())
def test_every_range_is_the_definition_s_or_a_named_error(
    observer, images, bits, symmetric, keep
) -> None:
    policy = TensorPolicy(*observer, code=Code(bits=bits), symmetric=symmetric)
    where = site(policy)
    collector = Collector([where], keep_histograms=keep)
    for one in images:
        collector.see("x", one[None])
    wanted = expect(images, policy)
    found, error = ranged(collector)
    if error:
        assert error.startswith("activation 'x' of layer conv1, conv2: ")
        assert refused_rightly(error, wanted, policy)
        return
    assert wanted[0] != "error"
    low, high = wanted[1]
    if wanted[0] == "exact":
        assert (found.min, found.max) == pytest.approx((low, high), rel=1e-12, abs=0)
    else:
        assert low <= found.min <= 0 <= found.max <= high
        if wanted[2] is not None and policy.symmetric:
            assert any(found.max == pytest.approx(min(t, high), rel=1e-12) for t in wanted[2])
    if keep:  # and the statistics on disk give the same again
        seen = json.loads(json.dumps([s.to_dict() for s in collector.seen["x"]], allow_nan=False))
        again = range_of(where, [Statistics.from_dict(s) for s in seen])
        assert again == found


@settings(max_examples=60)
@given(
    st.lists(IMAGE.filter(lambda i: i.size > 0), min_size=1, max_size=4),
    st.sampled_from(OBSERVERS).map(lambda observer: TensorPolicy(*observer)),
    st.sampled_from([(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")]),
    st.data(),
)
def test_a_value_that_is_no_number_names_the_image(images, policy, bad, data) -> None:
    value, word = bad
    which = data.draw(st.integers(0, len(images) - 1))
    images = [i.copy() for i in images]
    images[which][data.draw(st.integers(0, images[which].size - 1))] = value
    collector = Collector([site(policy)])
    for one in images[:which]:
        collector.see("x", one[None])
    with pytest.raises(RangeError) as caught:
        collector.see("x", images[which][None])
    text = f"activation 'x' of layer conv1, conv2: {word} in image {which} (counted from 0"
    assert str(caught.value).startswith(text)
