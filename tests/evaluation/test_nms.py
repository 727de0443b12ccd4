"""NMS: against the plain algorithm, ties and broken boxes included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcore.evaluation import nms as module
from quantcore.evaluation.nms import nms
from quantcore.ir.decoding import Limits


def _plain(rows, conf, iou, limit):
    """Greedy NMS, one candidate against each kept one, in float64."""
    found = [
        (float(np.float32(row[4]) * np.float32(row[5 + c])), n, c)
        for n, row in enumerate(rows)
        for c in range(rows.shape[1] - 5)
        if row[4] > conf and np.float32(row[4]) * np.float32(row[5 + c]) > np.float32(conf)
    ]
    kept = []
    for score, n, c in sorted(found, key=lambda f: -f[0]):
        x, y, w, h = rows[n, :4].astype(np.float32)
        box = [float(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]
        if all(k[5] != c or _iou(k, box) <= iou for k in kept):
            kept.append([*box, score, c])
        if len(kept) == limit:
            break
    return np.array(kept).reshape(-1, 6)


def _iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union


def _rows(seed, count, classes, whole=False):
    """Boxes in a few crowds, some left of and above the image; `whole` gives ties."""
    rng = np.random.default_rng(seed)
    crowds = rng.uniform(-40, 600, (6, 2))[rng.integers(0, 6, count)]
    box = np.concatenate(
        [crowds + rng.normal(0, 12, (count, 2)), rng.uniform(20, 80, (count, 2))], axis=1
    )
    scores = rng.uniform(0, 1, (count, 1 + classes)) ** 2
    if whole:
        box, scores = np.round(box / 8) * 8 + 0.0, np.round(scores * 4) / 4
    return np.concatenate([box, scores], axis=1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 60),
    classes=st.integers(1, 4),
    whole=st.booleans(),
    iou=st.sampled_from([0.3, 0.45, 0.65]),
    limit=st.sampled_from([1, 2, 5, 300]),
)
def test_agrees_with_the_plain_algorithm(seed, count, classes, whole, iou, limit):
    rows = _rows(seed, count, classes, whole)
    (kept,) = nms([rows], Limits(0.01, iou, limit))
    assert kept.dtype == np.float32
    np.testing.assert_allclose(kept, _plain(rows, 0.01, iou, limit), rtol=1e-6, atol=1e-5)


def test_prefixes_change_nothing():
    rows = _rows(0, 400, 3)
    (many,) = nms([rows], Limits(0.01, 0.65, 10_000))
    for limit in (1, 3, 40):
        (few,) = nms([rows], Limits(0.01, 0.65, limit))
        np.testing.assert_array_equal(few, many[:limit])


def test_other_classes_do_not_suppress_even_left_of_zero():
    # With OpenCV's shift alone, class 1 of the second box would land on class 0 of the first.
    row = np.zeros((2, 7), np.float32)
    row[0] = [570, 570, 140, 140, 1, 0.9, 0]
    row[1] = [-71, -71, 140, 140, 1, 0, 0.8]
    assert nms([row], Limits(0.1, 0.3))[0][:, 5].tolist() == [0, 1]


def test_a_box_counts_for_every_class():
    row = np.array([[10, 10, 4, 6, 0.5, 0.8, 0.1, 0.6]], np.float32)
    np.testing.assert_allclose(
        nms([row], Limits(0.1, 0.65))[0],
        [[8, 7, 12, 13, 0.4, 0], [8, 7, 12, 13, 0.3, 2]],
        rtol=1e-6,
    )


def test_broken_boxes_are_dropped_and_harm_nobody():
    good = [10, 10, 4, 4, 1, 0.5]
    broken = [
        [np.nan, 10, 4, 4, 1, 0.9],
        [10, 10, np.inf, 4, 1, 0.9],
        [10, 1e30, 4, 4, 1, 0.9],
        [10, 10, 0, 4, 1, 0.9],
        [10, 10, -4, 4, 1, 0.9],
        [10, 10, 4, 4, np.nan, 0.9],
        [10, 10, 4, 4, 1, np.nan],
    ]
    (kept,) = nms([np.array([*broken, good], np.float32)])
    assert kept.tolist() == [[8, 8, 12, 12, 0.5, 0]]


@pytest.mark.parametrize("shape", [(0, 3, 7), (2, 0, 7), (2, 3, 7)])
def test_nothing_found(shape):
    kept = nms(np.zeros(shape, np.float32))
    assert [k.shape for k in kept] == [(0, 6)] * shape[0]


def test_only_the_best_candidates_compete(monkeypatch):
    monkeypatch.setattr(module, "MAX_CANDIDATES", 5)
    rows = _rows(1, 50, 2)
    (kept,) = nms([rows], Limits(0.01, 1.0))
    scores = np.sort((rows[:, 4:5] * rows[:, 5:]).ravel())[::-1][:5]
    np.testing.assert_array_equal(kept[:, 4], scores)
