"""The teacher: heads and activations of the float graph, weighted by what it sees itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantcore.contracts.registry import load_engine
from quantcore.data.dataset import ImageFile
from quantcore.errors import EngineError
from quantcore.evaluation.decoding.anchor_free import AnchorFreeDecoding
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.gfl import GflDecoding
from quantcore.ir.edits import exposed
from quantcore.testing.models import images, small_detector
from quantcore.training.recipe import Recipe
from quantcore.training.teacher import Teacher, relative


@pytest.fixture(scope="module")
def engine():
    return load_engine("onnxruntime")


def test_targets_are_the_float_networks_values(planned, run, engine) -> None:
    model = small_detector()
    sites = planned(model)
    with Teacher(model, sites, Recipe(every=2), engine) as teacher:
        found = teacher.targets(images(2))
    watched = teacher.watched
    values = run(exposed(model.proto, watched), images(2))
    assert found.keys() == {"head.out", *watched}
    for name, target in found.items():
        np.testing.assert_allclose(target.values, values[name], rtol=1e-4, atol=1e-5)
        assert (target.weights >= 0).all()
    inside = [s.tensor for s in sites.sites if s.role == "activation" and s.tensor != "images"]
    assert list(watched) == inside[::2]


def test_where_nothing_is_seen_nothing_is_asked(planned, engine) -> None:
    model = small_detector()
    head = np.full((1, 7, 16, 16), -12.0, np.float32)
    head[0, 4:, 3, 5] = 2.0
    (weights,) = model.decoding.importance([head], (32, 32))
    assert weights.shape == head.shape
    there, elsewhere = weights[0, :, 3, 5], np.delete(weights.reshape(7, -1), 3 * 16 + 5, axis=1)
    assert there.min() > 100 * elsewhere.max()


def test_scores_that_are_probabilities_weigh_alike() -> None:
    """The error of a logit counts the same, whether the head is before or after the sigmoid."""
    rows = np.zeros((1, 2, 7), np.float32)
    rows[..., 2:4], rows[..., 4], rows[..., 5:] = 10, 0.6, 0.3
    (weights,) = DecodedBoxes().importance([rows], (32, 32))
    nudge = 1e-3
    for column, p in ((4, 0.6), (5, 0.3)):
        by_probability = weights[0, 0, column] * (nudge * p * (1 - p)) ** 2
        share = 1.0 if column == 4 else 0.6
        by_logit = share * p * (1 - p) * nudge**2
        confidence = max(2 * 0.6 * 0.3, 1.0)
        assert by_probability == pytest.approx(by_logit / confidence, rel=1e-4)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("boxes", ["center", "corners"])
def test_without_objectness_the_best_class_says_what_matters(layout: str, boxes: str) -> None:
    rows = np.zeros((1, 3, 6), np.float32)
    rows[0, :, :4] = (10, 10, 30, 50) if boxes == "corners" else (20, 30, 20, 40)
    rows[0, 0, 5] = 0.8
    decoding = AnchorFreeDecoding(layout, boxes)
    head = rows if layout == "rows" else rows.transpose(0, 2, 1)
    (weights,) = decoding.importance([head], (64, 64))
    assert weights.shape == head.shape
    found = weights[0] if layout == "rows" else weights[0].T
    np.testing.assert_allclose(found[0, :4], 0.8 / np.square([20, 40, 20, 40]), rtol=1e-5)
    assert found[0, 5] == pytest.approx(1 / (0.8 * 0.2))
    assert not found[1:, :4].any()


@pytest.mark.parametrize("decoding", [AnchorFreeDecoding("rows", "center"), DecodedBoxes()])
def test_a_faint_false_alarm_counts_less_than_an_object_that_is_lost(decoding) -> None:
    rows = np.full((1, 2, 7), 1e-5, np.float32)
    rows[..., 2:4] = 10
    rows[0, 0, 4:6] = 0.8
    (weights,) = decoding.importance([rows], (32, 32))
    lost, alarm = weights[0, 0, 4] * 0.6**2, weights[0, 1, 4] * 0.05**2
    assert lost > 10 * alarm


@pytest.mark.parametrize("form", ["rows", "columns", "maps"])
@pytest.mark.parametrize("order", ["pairs", "boxes_first", "scores_first"])
def test_a_distribution_counts_where_a_box_is_kept(form: str, order: str) -> None:
    decoding = GflDecoding((8,), bins=3, order=order, form=form, sigmoid=True)
    scores, bins = np.full((1, 4, 2), -20, np.float32), np.zeros((1, 4, 12), np.float32)
    scores[0, 2, 1], bins[0, 2, 1] = 2.0, 1.0

    def laid(rows):
        if form == "rows":
            return rows
        return rows.transpose(0, 2, 1).reshape(1, -1, *((2, 2) if form == "maps" else (4,)))

    heads = {
        "pairs": [laid(scores), laid(bins)],
        "boxes_first": [laid(np.concatenate((bins, scores), -1))],
        "scores_first": [laid(np.concatenate((scores, bins), -1))],
    }[order]
    weights = decoding.importance(heads, (16, 16))
    assert [w.shape for w in weights] == [h.shape for h in heads]
    ((by_class, by_bin),) = decoding._split(weights, (16, 16))
    p, share = 1 / (1 + np.exp(-2)), np.exp([0, 1, 0]) / np.exp([0, 1, 0]).sum()
    assert by_class[0, 2, 1] == pytest.approx(p * (1 - p), rel=1e-4)
    np.testing.assert_allclose(by_bin[0, 2, :3], p * share * (1 - share), rtol=1e-4)
    assert np.delete(by_bin[0], 2, axis=0).max() < 1e-6


def test_crops_are_half_as_large_where_the_graph_allows(planned, engine) -> None:
    model = small_detector()
    with Teacher(model, planned(model), Recipe(crop=16), engine) as teacher:
        assert teacher.size == (16, 16)
        assert teacher.targets(images(2)[:, :, :16, :16])["head.out"].values.shape[2:] == (8, 8)
    with Teacher(model, planned(model), Recipe(), engine) as teacher:
        assert teacher.size == (32, 32)


def test_a_size_that_does_not_go_is_told(planned, engine) -> None:
    model = small_detector()
    with pytest.raises(EngineError, match=r"does not run on crops of 17 pixels.*leave `crop` out"):
        Teacher(model, planned(model), Recipe(crop=17), engine)


def test_where_nothing_is_known_of_the_heads_errors_are_relative() -> None:
    values = [np.full((1, 2, 3), 2.0, np.float32), np.zeros((1, 4), np.float32)]
    total = sum(float((w * v**2).sum()) for w, v in zip(relative(values), values, strict=True))
    assert total == pytest.approx(1.0)


def test_parts_of_the_loss_can_be_left_out(planned, engine) -> None:
    model = small_detector()
    with Teacher(model, planned(model), Recipe(heads=0), engine) as teacher:
        assert "head.out" not in teacher.targets(images(1))
    with Teacher(model, planned(model), replace(Recipe(), features=0.0), engine) as teacher:
        assert teacher.targets(images(1)).keys() == {"head.out"}


def test_labels_of_a_batch_weigh_what_the_recipe_says(planned, engine) -> None:
    model = small_detector()
    classes = {7: 2, 9: 0}
    seen = [ImageFile(9, Path("9.png")), ImageFile(7, Path("7.png"))]
    with Teacher(model, planned(model), Recipe(labels=3.0), engine, classes) as teacher:
        assert teacher.size == model.preprocessing.size
        labels = teacher.targets(images(2), seen)["head.out"].labels
    assert labels.shape[1] == 7
    assert labels[0, 0].min() == labels[1, 2].min() == 1.5
    assert labels.sum(axis=1).max() == 1.5
