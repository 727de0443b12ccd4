import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcore.calibration.counting import Counter, extremes
from quantcore.errors import TableError
from quantcore.table.histogram import BINS, Histogram

from . import reference

COUNTER = Counter()
FINITE = st.floats(-(2.0**126), 2.0**126, width=32)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 60), elements=FINITE)
NEAR = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-8, 8, width=32))


def add(histogram, values):
    values = np.asarray(values, dtype=np.float32)
    COUNTER.count(histogram, values, *extremes(values))


def of(*batches):
    histogram = Histogram()
    for batch in batches:
        add(histogram, batch)
    return histogram


def same(a, b):
    return a.to_dict() == b.to_dict()


@settings(max_examples=60, deadline=None)
@given(ARRAYS | NEAR)
def test_counts_are_those_of_the_obvious_reference(values):
    found = of(values)
    exponent, counts = reference.histogram(values)
    assert found.exponent == exponent
    assert found.count == len(values)
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    for code in range(-BINS + 1, BINS):
        side = found.positive if code >= 0 else found.negative
        assert side[abs(code)] == counts.get(code, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(ARRAYS | NEAR, min_size=1, max_size=5), st.randoms())
def test_neither_order_nor_batching_changes_a_bit(batches, random):
    whole = np.concatenate(batches)
    shuffled = list(whole)
    random.shuffle(shuffled)
    shuffled = np.array(shuffled, np.float32)
    cuts = sorted(random.randrange(1, len(whole) + 1) for _ in range(3))
    pieces = [piece for piece in np.split(shuffled, cuts) if piece.size]
    assert same(of(*batches), of(whole))
    assert same(of(*pieces), of(whole))
    merged = Histogram()
    for piece in reversed(pieces):
        merged.merge(of(piece))
    assert same(merged, of(whole))


def test_counts_are_exact_over_many_chunks():
    values = np.random.default_rng(0).standard_normal(500_001).astype(np.float32)
    values[-1] = 77
    found = of(values)
    codes = np.trunc(values.astype(np.float64) / found.width).astype(np.int64)
    expected = np.bincount(np.abs(codes), minlength=BINS)
    assert (found.positive + found.negative == expected).all()
    assert found.exponent == 7


@pytest.mark.parametrize("bins", [2, 128, 2048, BINS])
def test_folded_bins_keep_every_count(bins):
    values = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    found = of(values)
    counts, edges = found.magnitudes(bins)
    assert counts.sum() == len(values)
    assert len(edges) == len(counts) + 1
    assert edges[-2] <= found.amax < edges[-1]
    assert (counts == np.histogram(np.abs(values).astype(np.float64), edges)[0]).all()
    signed, centres = found.signed(bins)
    assert signed.sum() == len(values)
    assert len(signed) == len(centres) == 2 * bins - 1
    width = centres[-1] - centres[-2] if bins > 2 else 2 * centres[-1] / 3
    assert (signed @ centres) / len(values) == pytest.approx(values.mean(), abs=width)


@given(ARRAYS | NEAR)
@settings(max_examples=25, deadline=None)
def test_json_reads_back_to_the_bit(values):
    found = of(values)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert same(Histogram.from_dict(json.loads(text)), found)


def test_an_empty_histogram_reads_back():
    assert same(Histogram.from_dict(Histogram().to_dict()), Histogram())


@pytest.mark.parametrize(
    "change",
    [
        {"exponent": 9},
        {"positive": [-1]},
        {"positive": [0] * (BINS + 1)},
        {"positive": "many"},
        {"min": "low"},
        {"max": float("inf")},
    ],
)
def test_a_malformed_histogram_is_refused(change):
    with pytest.raises(TableError, match="malformed histogram"):
        Histogram.from_dict(of([1.0, -3.0]).to_dict() | change)
