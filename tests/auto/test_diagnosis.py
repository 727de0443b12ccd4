"""What the images cannot tell, and what those to calibrate on lack."""

import numpy as np
import pytest

from quantcore.data.boxes import Annotation
from quantcore.data.coco import CocoDataset, CocoImage
from quantcore.data.dataset import Category
from quantcore.results.metric import COCO
from quantcore.studies.auto.choice import needed
from quantcore.studies.auto.diagnosis import gaps, too_few
from quantcore.studies.auto.judging import Judged, weights_of
from quantcore.studies.auto.parts import Parts


@pytest.fixture
def parts(tmp_path) -> Parts:
    """Two images of large cats to calibrate on, two of a small cat and two dogs to choose by."""
    images = tuple(CocoImage(i, tmp_path / f"{i}.png", 640, 640) for i in range(4))
    seen = [(0, 1, 300), (1, 1, 300), (2, 1, 20), (3, 2, 300), (3, 2, 300)]
    annotations = tuple(
        Annotation(image, kind, (0, 0, side, side), side * side, False)
        for image, kind, side in seen
    )
    categories = (Category(1, "cat"), Category(2, "dog"))
    dataset = CocoDataset(tmp_path / "labels.json", images, categories, annotations)
    return Parts(dataset, images[:2], images[2:])


def test_classes_sizes_and_activations_that_are_lacking_are_named(parts: Parts) -> None:
    found = list(gaps(parts, {"a": (1.0, 1.1), "b": (1.0, 3.0), "c": (0.0, 1.0)}))
    assert "1 of the 2 classes" in found[0]
    assert "67% of the objects there): dog" in found[0]
    assert "small objects are 0%" in found[1]
    assert "1 of 3 activations" in found[2]
    assert "b 3.0 times" in found[2]
    assert len(found) == 3


def test_nothing_is_said_where_nothing_is_lacking(parts: Parts) -> None:
    alike = Parts(parts.dataset, parts.choosing, parts.choosing)
    assert not list(gaps(alike, {"a": (1.0, 0.9)}))


@pytest.mark.parametrize(("images", "warned"), [(16, True), (1600, False)])
def test_a_split_that_is_too_small_says_what_it_can_promise(images: int, warned: bool) -> None:
    weights = weights_of(images)
    drops = np.random.default_rng(0).normal(0.002, 0.05, images)
    judged = Judged(1, np.full(len(weights), 0.05), weights @ drops / weights.sum(1))
    said = list(too_few([judged], images, 0.005, COCO))
    assert bool(said) == warned
    if warned:
        assert "can be promised" in said[0]
        # So many that the interval is as wide as what is asked.
        many = needed(judged.deviation, images, 0.005)
        assert 1.645 * judged.deviation * (images / many) ** 0.5 == pytest.approx(0.005, rel=0.05)


def test_without_labels_that_is_said() -> None:
    nothing = np.full(len(weights_of(4)), np.nan)
    (said,) = too_few([Judged(1, np.zeros(len(nothing)), nothing)], 4, 0.005, COCO)
    assert "have no labels" in said
