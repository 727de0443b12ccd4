"""The COCO metric: known answers, both implementations alike, nothing printed."""

import builtins
import json
from pathlib import Path

import numpy as np
import pytest

from quantcore.data.coco import Annotation, Category, CocoDataset, CocoImage
from quantcore.errors import DataError, OutputError
from quantcore.evaluation.coco import score
from quantcore.evaluation.detections import Detections
from quantcore.results.metric import COCO

BOTH = ("hotcoco", "pycocotools")
BOX = (10.0, 20.0, 50.0, 40.0)  # medium: 2000 square pixels


@pytest.fixture(autouse=True)
def _reference_is_there():
    pytest.importorskip("pycocotools")


def _dataset(seed=None, images=4):
    rng = np.random.default_rng(seed)
    annotations = []
    for n in range(images):
        for _ in range(1 if seed is None else rng.integers(0, 8)):
            box = BOX if seed is None else (*rng.uniform(0, 200, 2), *rng.uniform(5, 200, 2))
            category = 3 if seed is None else int(rng.choice([3, 7, 90]))
            crowd = seed is not None and bool(rng.random() < 0.1)
            annotations.append(Annotation(n, category, tuple(box), box[2] * box[3], crowd))
    return CocoDataset(
        Path("instances.json"),
        tuple(CocoImage(n, Path(f"{n}.jpg"), 640, 480) for n in range(images)),
        (Category(90, "cup"), Category(3, "cat"), Category(7, "dog")),
        tuple(annotations),
    )


def _found(dataset, seed=0, jitter=6.0):
    """The truth, shaken, with some inventions."""
    rng = np.random.default_rng(seed)
    by_image = {}
    for image in dataset.images:
        rows = [
            [a.bbox[0], a.bbox[1], a.bbox[0] + a.bbox[2], a.bbox[1] + a.bbox[3], rng.random(), c]
            for a in dataset.annotations
            if a.image_id == image.id
            for c in [(3, 7, 90).index(a.category_id), int(rng.integers(0, 3))]
        ]
        found = np.array(rows, np.float32).reshape(-1, 6)
        found[:, :4] += rng.normal(0, jitter, (len(found), 4)) if jitter else 0
        by_image[image.id] = found
    return Detections(by_image, (3, 7, 90))


@pytest.mark.parametrize("implementation", BOTH)
def test_classes_that_the_data_set_does_not_have_change_nothing(implementation, capfd):
    dataset = _dataset(seed=3, images=6)
    found = _found(dataset)
    extra = {
        image: np.concatenate([rows, rows * [1, 1, 1, 1, 1, 0] + [0, 0, 0, 0, 0, 3]])
        for image, rows in found.by_image.items()
    }
    wider = Detections(extra, (*found.category_ids, 91))
    assert score(dataset, wider, implementation) == score(dataset, found, implementation)
    only = {image: rows[len(rows) // 2 :] for image, rows in extra.items()}
    assert score(dataset, Detections(only, wider.category_ids), implementation).figures["map"] == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("implementation", BOTH)
def test_perfect_detections(implementation):
    dataset = _dataset()
    row = np.array([[10, 20, 60, 60, 0.9, 0]], np.float32)
    scores = score(dataset, Detections(dict.fromkeys(range(4), row), (3, 7, 90)), implementation)
    wanted = dict.fromkeys(COCO.figures, 1.0)
    for name in ("map_small", "map_large", "ar_small", "ar_large"):
        wanted[name] = None
    assert scores.figures == pytest.approx(wanted)
    assert list(scores.per_class) == ["cat", "dog", "cup"]
    assert scores.per_class == pytest.approx({"cat": 1.0, "dog": None, "cup": None})


@pytest.mark.parametrize("implementation", BOTH)
def test_no_detections_are_zeros(implementation, capfd):
    dataset = _dataset()
    nothing = np.empty((0, 6), np.float32)
    detections = Detections(dict.fromkeys(range(4), nothing), (3, 7, 90))
    scores = score(dataset, detections, implementation)
    assert scores.figures["map"] == scores.figures["map50"] == scores.figures["ar100"] == 0
    assert scores.figures["map_small"] is None
    assert scores.per_class == {"cat": 0, "dog": None, "cup": None}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("implementation", BOTH)
def test_only_the_images_run_count(implementation, capfd):
    dataset = _dataset()
    row = np.array([[10, 20, 60, 60, 0.9, 0]], np.float32)
    scores = score(dataset, Detections({2: row}, (3, 7, 90)), implementation)
    assert scores.figures["map"] == pytest.approx(1)
    both = Detections({2: row, 0: row[:0]}, (3, 7, 90))
    assert score(dataset, both, implementation).figures["ar100"] == pytest.approx(0.5)
    assert capfd.readouterr() == ("", "")


def _assert_equal(dataset, detections):
    ours, reference = (score(dataset, detections, name) for name in BOTH)
    assert ours.figures == pytest.approx(reference.figures, abs=1e-6)
    assert ours.per_class == pytest.approx(reference.per_class, abs=1e-6)
    assert list(ours.per_class) == list(reference.per_class)
    return ours


@pytest.mark.parametrize("seed", range(8))
def test_both_agree(seed):
    dataset = _dataset(seed, images=12)
    scores = _assert_equal(dataset, _found(dataset, seed))
    assert 0 < scores.figures["map"] < 1


def test_no_ground_truth_at_all():
    dataset = _dataset(images=2)
    empty = CocoDataset(dataset.source, dataset.images, dataset.categories, ())
    scores = _assert_equal(empty, _found(dataset))
    assert set(scores.figures.values()) == {None}


def test_refusals(monkeypatch):
    dataset = _dataset()
    with pytest.raises(DataError, match="no COCO metric 'coco'; there are hotcoco, pycocotools"):
        score(dataset, _found(dataset), "coco")
    with pytest.raises(DataError, match="no image 99, but there are detections for it"):
        score(dataset, Detections({99: np.empty((0, 6), np.float32)}, (3, 7, 90)))
    whole = builtins.__import__

    def without(name, *rest):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="pip install pycocotools"):
        score(dataset, _found(dataset), "pycocotools")


def test_result_format(tmp_path):
    row = np.array([[10, 20, 60.25, 60, 0.123456, 2]], np.float32)
    detections = Detections({397133: row, 5: row[:0]}, (3, 7, 90))
    detections.save(tmp_path / "out" / "detections.json")
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == [
        {"image_id": 397133, "category_id": 90, "bbox": [10, 20, 50.25, 40], "score": 0.12346}
    ]
    assert len(detections) == 1
    with pytest.raises(OutputError, match="cannot write"):
        detections.save(tmp_path / "out" / "detections.json" / "below.json")


def test_empty_result_format(tmp_path):
    Detections({1: np.empty((0, 6), np.float32)}, (3,)).save(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []
