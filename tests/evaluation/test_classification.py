"""Classes of whole images: decoding, top-1 and top-5 under draws, and agreement without labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from quantcore.data.coco import CocoDataset
from quantcore.data.dataset import Category, ImageFile
from quantcore.data.folders import FolderDataset
from quantcore.errors import DataError, ModelError
from quantcore.evaluation.decode_graph import append_decode
from quantcore.evaluation.decoding.classes import ClassScores
from quantcore.evaluation.detections import Predictions
from quantcore.evaluation.losses import shares
from quantcore.evaluation.tasks import Classification, Detection, task_of
from quantcore.ir.decoding import LIMITS
from quantcore.ir.description import describe, described
from quantcore.ir.model import FloatModel
from quantcore.results.estimate import draws

TASK = Classification()
CLASSES = 8


def scene(images: int = 30, seed: int = 0) -> tuple[FolderDataset, Predictions]:
    """Random probabilities of eight classes; category ids run the other way than indices."""
    random = np.random.default_rng(seed)
    listed = tuple(ImageFile(n, Path(f"{n}.jpg")) for n in range(images))
    kinds = tuple(Category(n, f"kind {n}") for n in range(CLASSES))
    labels = {n: int(random.integers(CLASSES)) for n in range(images)}
    dataset = FolderDataset(Path("val"), listed, kinds, labels)
    scores = random.random((images, CLASSES)).astype(np.float32) ** 4
    scores /= scores.sum(axis=1, keepdims=True)
    ids = tuple(range(CLASSES - 1, -1, -1))
    return dataset, TASK.predictions(dict(enumerate(scores)), ids)


def naive(dataset: FolderDataset, found: Predictions, images: list[int], best: int) -> float:
    hits = []
    for n in images:
        order = sorted(range(CLASSES), key=lambda c: (-found.by_image[n][c], c))[:best]
        hits.append(dataset.labels[n] in [found.category_ids[c] for c in order])
    return float(np.mean(hits))


def test_the_figures_are_shares_of_the_images() -> None:
    dataset, found = scene()
    scores = TASK.score(dataset, found)
    assert scores.figures["top1"] == pytest.approx(naive(dataset, found, list(range(30)), 1))
    assert scores.figures["top5"] == pytest.approx(naive(dataset, found, list(range(30)), 5))
    for kind in dataset.categories:
        own = [n for n in range(30) if dataset.labels[n] == kind.id]
        wanted = naive(dataset, found, own, 1) if own else None
        assert scores.per_class[kind.name] == (None if wanted is None else pytest.approx(wanted))


def test_ties_go_to_the_first_class_and_nan_is_wrong() -> None:
    images = tuple(ImageFile(n, Path(f"{n}.jpg")) for n in range(4))
    dataset = FolderDataset(
        Path("val"), images, (Category(0, "a"), Category(1, "b")), {0: 0, 1: 1, 2: 0, 3: 1}
    )
    even, broken = np.full(2, 0.5, np.float32), np.full(2, np.nan, np.float32)
    scores = {0: even, 1: even, 2: broken, 3: broken}
    assert TASK.score(dataset, TASK.predictions(scores, (0, 1))).figures["top1"] == 0.25


def test_draws_count_the_images_that_were_drawn() -> None:
    dataset, found = scene()
    weights = draws(30, 20)
    drawn = TASK.resampled(dataset, found, weights)
    for figure, row in zip(drawn, weights.astype(int), strict=True):
        images = [n for n, times in enumerate(row) for _ in range(times)]
        assert figure == pytest.approx(naive(dataset, found, images, 1))


def test_a_difference_is_paired() -> None:
    dataset, found = scene()
    right = {n: found.category_ids.index(label) for n, label in dataset.labels.items()}
    better = dict(found.by_image)
    wrong = next(n for n, scores in better.items() if scores.argmax() != right[n])
    better[wrong] = np.eye(CLASSES, dtype=np.float32)[right[wrong]]
    first = TASK.draws(dataset, found)
    change = TASK.draws(dataset, Predictions(better, found.category_ids)).against(first)
    assert first.figure == "top1"
    assert change.value == pytest.approx(1 / 30)
    assert 0 <= change.low <= change.value <= change.high < 0.15


def test_only_the_images_that_were_run_count() -> None:
    dataset, found = scene()
    some = {n: found.by_image[n] for n in (3, 7)}
    scores = TASK.score(dataset, TASK.predictions(some, found.category_ids))
    assert scores.figures["top5"] == naive(dataset, found, [3, 7], 5)
    with pytest.raises(DataError, match="no image 99"):
        TASK.score(dataset, TASK.predictions({99: found.by_image[0]}, found.category_ids))


def test_agreement_is_what_the_total_variation_leaves() -> None:
    _, found = scene()
    _, other = scene(seed=1)
    for n in range(30):
        mine, theirs = found.by_image[n], other.by_image[n]
        common, total = TASK.agreement(mine, theirs)
        assert common / total == pytest.approx(1 - np.abs(mine - theirs).sum() / 2, abs=1e-6)
        assert TASK.agreement(mine, mine) == pytest.approx((2, 2))
    same = shares(TASK.agreements(found, found, range(30)), draws(30, 5))
    np.testing.assert_array_equal(same, 1)
    assert TASK.agreement(mine, np.full_like(mine, np.nan))[0] == 0


def test_logits_become_probabilities() -> None:
    logits = np.array([[[[1e4]], [[0]], [[-1e4]]], [[[0]], [[0]], [[0]]]], np.float32)
    decoding = ClassScores()
    assert decoding.classes([logits.shape], (8, 8)) == 3
    found = decoding.detect([logits], (8, 8), LIMITS)
    np.testing.assert_array_equal(found[0], [1, 0, 0])
    np.testing.assert_allclose(found[1], 1 / 3)
    ready = np.stack(found)
    np.testing.assert_array_equal(decoding.drawn.decode([ready], (8, 8)), ready)
    for shapes in ([(1, 3, 2, 2)], [(1,)], [(1, 3), (1, 3)]):
        with pytest.raises(ModelError, match="needs one output B x classes"):
            decoding.classes(shapes, (8, 8))


@pytest.mark.parametrize("softmax", [True, False])
def test_the_graph_decodes_alike(
    build: Callable[..., FloatModel], run: Callable, softmax: bool
) -> None:
    model = classifier(build, softmax)
    images = np.random.default_rng(0).random((3, 3, 16, 16)).astype(np.float32)
    (heads,) = run(model.proto, images).values()
    drawn = append_decode(model.proto, model.decoding, (16, 16))
    found = run(drawn, images)
    assert list(found) == ["probabilities"]
    wanted = model.decoding.decode([heads], (16, 16))
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-6)
    assert append_decode(drawn, model.decoding.drawn, (16, 16)) == drawn


def classifier(build: Callable[..., FloatModel], softmax: bool = True) -> FloatModel:
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["images", "w"], ["c"], "conv"),
        node("GlobalAveragePool", ["c"], ["y"], "pool"),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    base = build(nodes, {"w": weight})
    names = tuple("abcd")
    return FloatModel("tiny", base.proto, base.preprocessing, ClassScores(softmax), names)


def test_a_description_says_what_a_model_is_for(
    build: Callable[..., FloatModel], net: FloatModel
) -> None:
    model = classifier(build, softmax=False)
    found = described(describe(model), Path("m.onnx"), {"classes": ClassScores}.__getitem__)
    assert found is not None
    assert found.decoding == ClassScores(softmax=False)
    assert found.key == model.key != classifier(build).key
    assert isinstance(task_of(found), Classification)
    assert isinstance(task_of(net), Detection)


def test_labels_of_another_task_are_refused() -> None:
    folders, _ = scene()
    coco = CocoDataset(Path("a.json"), (), (Category(1, "a"),), ())
    with pytest.raises(DataError, match="the model is a detector"):
        Detection().check(folders, ["a"])
    with pytest.raises(DataError, match="a folder for each class"):
        TASK.check(coco, ["a"])
