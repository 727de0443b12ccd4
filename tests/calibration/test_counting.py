"""The compiled loops: every bit pattern of a float32, any memory, with and without a cache."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba.core.caching import CacheImpl

from quantcore.calibration import counting
from quantcore.calibration.counting import Counter, extremes
from quantcore.table.histogram import Histogram

from . import reference

COUNTER = Counter()
BITS = hnp.arrays(np.uint32, st.integers(1, 60)).map(lambda bits: bits.view(np.float32))


@settings(max_examples=200, deadline=None)
@given(BITS)
def test_extremes_of_any_bits_are_exact_or_not_finite(values):
    low, high = extremes(values)
    if np.isfinite(values).all():
        assert (low, high) == (values.min(), values.max())
    else:
        assert not (np.isfinite(low) and np.isfinite(high))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 7777, -1])
def test_one_value_that_is_not_finite_is_not_overlooked(sign, bad, where):
    values = np.ones(20_003, np.float32)
    values[where] = np.copysign(bad, sign)
    assert not np.isfinite(extremes(values)).all()


def test_zeros_of_both_signs_leave_the_same_bits_in_any_order():
    found = [extremes(np.array(zeros, np.float32)) for zeros in ([0, -0.0], [-0.0, 0], [-0.0])]
    assert not np.signbit(found).any()


@settings(max_examples=60, deadline=None)
@given(BITS.filter(lambda values: np.isfinite(values).all()))
def test_any_finite_bits_are_counted_as_in_the_obvious_reference(values):
    histogram = Histogram()
    COUNTER.count(histogram, values, *extremes(values))
    exponent, counts = reference.histogram(values)
    assert histogram.exponent == exponent
    bins = {m: n for m, n in enumerate(histogram.positive.tolist()) if n}
    bins |= {-m: n for m, n in enumerate(histogram.negative.tolist()) if n}
    assert bins == counts


def test_read_only_and_unaligned_memory_is_read():
    values = np.arange(-5, 9, dtype=np.float32)
    unaligned = np.frombuffer(b"." + values.tobytes(), np.uint8)[1:].view(np.float32)
    assert not unaligned.flags.writeable
    assert not unaligned.flags.aligned
    found, wanted = Histogram(), Histogram()
    COUNTER.count(found, unaligned, *extremes(unaligned))
    COUNTER.count(wanted, values, *extremes(values))
    assert found == wanted


def test_without_a_folder_to_cache_in_it_is_compiled_anew(monkeypatch):
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError):
        numba.njit(cache=True)(lambda x: x)
    signature = numba.types.int64(numba.types.int64)
    assert counting.compiled(signature)(lambda x: x + 1)(1) == 2
