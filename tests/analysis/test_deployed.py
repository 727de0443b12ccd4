"""Detections at fixed thresholds: right, wrong, missed, and how scores shift."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.analysis.deployed import THRESHOLDS, Truth, count, points, shift, truths
from quantcore.data.boxes import Annotation, ListedBoxes
from quantcore.data.dataset import ImageFile
from quantcore.evaluation.detections import Predictions

NOTHING = np.empty((0, 6), np.float32)
ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 127).map(lambda n: n / 128)),
    max_size=8,
)


def boxes(*rows: tuple[float, float, float], label: int = 0) -> np.ndarray:
    """Squares of 10 pixels at a place, with a score."""
    found = [(10 * x, 10 * y, 10 * x + 10, 10 * y + 10, score, label) for x, y, score in rows]
    return np.asarray(found, np.float32).reshape(-1, 6)


def predictions(*images: np.ndarray) -> Predictions:
    return Predictions(dict(enumerate(images)), (1, 2))


@given(ROWS, ROWS)
def test_one_matching_serves_all_thresholds(found: list, there: list) -> None:
    truth = {0: Truth(boxes(*there), NOTHING)}
    every = count(predictions(boxes(*found)), truth).values[:, 0]
    for number, threshold in enumerate(THRESHOLDS):
        above = boxes(*(row for row in found if np.float32(row[2]) > threshold))
        alone = count(predictions(above), truth).values[number, 0]
        assert (every[number] == alone).all()
        right, wrong, missed = every[number]
        assert right + missed == len(there)
        assert right + wrong == len(above)


def test_precision_recall_and_f1_of_known_counts() -> None:
    truth = {0: Truth(boxes((0, 0, 1), (1, 0, 1)), NOTHING), 1: Truth(boxes((5, 5, 1)), NOTHING)}
    found = predictions(boxes((0, 0, 0.9), (7, 7, 0.6)), boxes((5, 5, 0.3)))
    at = {p.confidence: p for p in points(count(found, truth))}
    assert at[0.25].precision.value == pytest.approx(2 / 3)
    assert at[0.25].recall.value == pytest.approx(2 / 3)
    assert at[0.5].precision.value == pytest.approx(1 / 2)
    assert at[0.5].recall.value == pytest.approx(1 / 3)
    assert at[0.5].f1.value == pytest.approx(2 / 5)
    assert at[0.75].precision.value == 1
    assert at[0.25].precision.low <= at[0.25].precision.value <= at[0.25].precision.high


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong() -> None:
    crowd = np.asarray([[0, 0, 100, 100, 1, 0]], np.float32)
    found = predictions(boxes((3, 3, 0.9)))
    assert count(found, {0: Truth(NOTHING, crowd)}).values[1, 0].tolist() == [0, 0, 0]
    other = predictions(boxes((3, 3, 0.9), label=1))
    assert count(other, {0: Truth(NOTHING, crowd)}).values[1, 0].tolist() == [0, 1, 0]


def test_the_truth_is_under_the_models_classes() -> None:
    labels = tuple(Annotation(image, 2, (1, 2, 3, 4), 12, False) for image in (0, 7))
    images = tuple(ImageFile(image, Path(f"{image}.jpg")) for image in (0, 7))
    found = truths(ListedBoxes(Path("a.json"), images, (), labels), predictions(NOTHING))
    assert found[0].objects.tolist() == [[1, 2, 4, 6, 1, 1]]
    assert list(found) == [0]


def test_scores_that_sink_are_told() -> None:
    mine = boxes((0, 0, 0.9), (1, 0, 0.3), (2, 0, 0.2))
    sunk = mine - np.asarray([0, 0, 0, 0, 0.1, 0], np.float32)
    found = shift(predictions(mine), predictions(sunk))
    assert (found.boxes, found.matched, found.lost, found.gained) == (2, 2, 1, 0)
    assert found.mean == pytest.approx(-0.1, abs=1e-6)
    back = shift(predictions(sunk), predictions(mine))
    assert (back.boxes, back.lost, back.gained) == (1, 0, 1)
    assert shift(predictions(NOTHING), predictions(mine)) is None
