"""Figures of the studies: MACs, cuts, the resampled metric, losses, rank correlations."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from quantcore.analysis.rank import correlation, kendall, ranks, spearman
from quantcore.data.coco import Annotation, Category, CocoDataset, CocoImage
from quantcore.errors import UsageError
from quantcore.evaluation import resample
from quantcore.evaluation.coco import score
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.losses import agreement, iou
from quantcore.evaluation.resample import Matches
from quantcore.evaluation.tasks import Detection
from quantcore.ir.edits import exposed
from quantcore.ir.model import FloatModel
from quantcore.qdq.insertion import insert
from quantcore.results.estimate import FigureDraws, draws, interval
from quantcore.runtime.plain import plain
from quantcore.studies.macs import int8_share, macs_of, shapes_of
from quantcore.studies.prefix import cut
from quantcore.studies.probe import layers_probe


def test_macs_of_each_kind_of_layer(net: FloatModel) -> None:
    found = macs_of(net)
    assert found["m.0.conv"] == 8 * 8 * 8 * 3 * 3 * 3
    assert found["m.1.conv"] == 8 * 8 * 8 * 8
    assert found["m.3.up"] == 8 * 8 * 6 * 5 * 2 * 2
    assert found["m.5.add"] == found["m.6"] == 0
    assert int8_share(found, found) == 1.0
    assert int8_share(found, []) == 0.0


def test_grouped_and_linear_macs(build: Callable[..., FloatModel]) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w"], ["a"], "depthwise", group=3, pads=[1] * 4),
        node("GlobalAveragePool", ["a"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "g"], ["y"], "linear"),
    ]
    constants = {"w": np.ones((3, 1, 3, 3), np.float32), "g": np.ones((3, 7), np.float32)}
    found = macs_of(build(nodes, constants))
    assert found == {"depthwise": 16 * 16 * 3 * 9, "pool": 0, "linear": 21}


def test_a_cut_computes_what_the_change_reaches_and_no_more(
    net: FloatModel, table: Callable, planned: Callable, run: Callable
) -> None:
    shapes = shapes_of(net)
    images = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    for layer in (layer for layer in net.layers if layer.weights):
        others = [{"match": o.name, "quantize": False} for o in net.layers if o.name != layer.name]
        sites = planned(net, layers=others)
        proto = insert(net, sites, table(net, sites)).proto
        part = cut(net, proto, shapes)
        tensors = {"images": images, **run(exposed(net.proto, part.feeds), images)}
        found = run(part.proto, part.pack(tensors))
        whole = run(proto, images)
        assert found.keys() == set(part.outputs)
        for name, head in whole.items():
            np.testing.assert_array_equal(found.get(name, tensors[name]), head)
    assert part.outputs == ("z",)
    assert {n.name for n in part.proto.graph.node} & {"m.0.conv", "m.1.conv", "m.3.up"} == set()


def test_one_graph_measures_every_layer_alone(
    net: FloatModel, table: Callable, planned: Callable, run: Callable
) -> None:
    images = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    sites = planned(net)
    layers = [layer for layer in net.layers if layer.weights]
    found = run(layers_probe(net, insert(net, sites, table(net, sites)).proto, layers), images)
    assert found.keys() == {
        f"{layer.name}.{end}" for layer in layers for end in ("signal", "noise")
    }
    for layer in layers:
        others = [{"match": o.name, "quantize": False} for o in layers if o.name != layer.name]
        own = planned(net, layers=others)
        quantized = insert(net, own, table(net, own)).proto
        (name,) = layer.outputs
        reference = run(exposed(net.proto, [name]), images)[name].astype(float)
        error = run(exposed(quantized, [name]), images)[name] - reference
        assert found[f"{layer.name}.signal"] == pytest.approx(np.square(reference).sum(), rel=1e-5)
        assert found[f"{layer.name}.noise"] == pytest.approx(np.square(error).sum(), rel=1e-4)


def scene(images: int = 12, seed: int = 0) -> tuple[CocoDataset, Detections]:
    random = np.random.default_rng(seed)
    annotations, found = [], {}
    for n in range(1, images + 1):
        rows = []
        for _ in range(int(random.integers(0, 6))):
            x, y, w, h = (float(v) for v in random.uniform(10, 90, 4))
            label, crowd = int(random.integers(4)), bool(random.random() < 0.1)
            annotations.append(Annotation(n, label + 1, (x, y, w, h), w * h, crowd))
            for _ in range(3):
                a, b, c, d = np.array([x, y, x + w, y + h]) + random.normal(0, 6, 4)
                rows.append([a, b, c, d, random.random(), label])
        rows += [[*random.uniform(0, 50, 2), *random.uniform(60, 90, 2), 0.1, 3] for _ in range(4)]
        found[n] = np.asarray(rows, np.float32)
    listed = tuple(CocoImage(n, Path(f"{n}.jpg"), 200, 200) for n in range(1, images + 1))
    kinds = tuple(Category(c, f"class{c}") for c in range(1, 5))
    dataset = CocoDataset(Path("scene.json"), listed, kinds, tuple(annotations))
    return dataset, Detections(found, (1, 2, 3, 4))


@pytest.mark.parametrize("seed", range(5))
def test_the_resampled_metric_is_the_coco_metric(seed: int) -> None:
    dataset, detections = scene(seed=seed)
    found = Matches(dataset, detections).score(draws(12, 50))
    assert found[0] == pytest.approx(score(dataset, detections).figures["map"], abs=1e-12)
    low, high = interval(found[1:])
    assert low < found[0] < high


def test_a_weight_of_zero_leaves_an_image_out() -> None:
    dataset, detections = scene()
    weights = np.ones((1, 12))
    weights[0, [0, 5]] = 0
    fewer = {i: boxes for i, boxes in detections.by_image.items() if i not in (1, 6)}
    wanted = score(dataset, Detections(fewer, detections.category_ids)).figures["map"]
    assert Matches(dataset, detections).score(weights)[0] == pytest.approx(wanted, abs=1e-12)


def test_a_weight_of_two_is_the_image_twice() -> None:
    dataset, detections = scene()
    weights = np.ones((1, 12))
    weights[0, [2, 7]] = 2
    copies = {3: 103, 8: 108}
    images = [*dataset.images, *(CocoImage(c, Path("c.jpg"), 200, 200) for c in copies.values())]
    more = [
        replace(a, image_id=copies[a.image_id]) for a in dataset.annotations if a.image_id in copies
    ]
    both = replace(dataset, images=tuple(images), annotations=(*dataset.annotations, *more))
    boxes = {**detections.by_image, **{c: detections.by_image[i] for i, c in copies.items()}}
    wanted = score(both, Detections(boxes, detections.category_ids)).figures["map"]
    assert Matches(dataset, detections).score(weights)[0] == pytest.approx(wanted, abs=1e-12)


def test_draws_in_blocks_are_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    matches, weights = Matches(*scene()), draws(12, 40)
    whole = matches.score(weights)
    monkeypatch.setattr(resample, "_BLOCK", 7)
    np.testing.assert_allclose(matches.score(weights), whole, rtol=1e-12)


def test_a_difference_is_paired() -> None:
    dataset, detections = scene(40)
    worse = {i: boxes * [1, 1, 1.02, 1.02, 1, 1] for i, boxes in detections.by_image.items()}
    first = Detection().draws(dataset, detections)
    second = Detection().draws(dataset, Detections(worse, detections.category_ids))
    assert Detection().draws(dataset, detections) == first, "the seed is fixed"
    same, change = first.against(first), second.against(first)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert change.value == pytest.approx(second.values[0] - first.values[0])
    assert change.low < change.value < change.high
    alone = second.estimate
    assert change.high - change.low < (alone.high - alone.low) / 2
    assert plain(change).keys() == {"value", "low", "high", "level", "draws"}
    assert (change.level, change.draws) == (0.9, 1000)
    assert FigureDraws.from_dict(plain(second), "map") == second
    with pytest.raises(UsageError, match="same images"):
        first.against(Detection().draws(*scene(39)))


def test_without_objects_there_is_no_interval() -> None:
    dataset, detections = scene()
    found = Detection().draws(replace(dataset, annotations=()), detections, 5)
    assert plain(found.estimate)["value"] is None
    assert plain(found)["map"] == [None] * 6


def test_detections_agree_with_themselves_and_less_with_others() -> None:
    boxes = scene()[1].by_image[2]
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    common, total = agreement(boxes, boxes)
    assert common == pytest.approx(total)
    beside = np.array([[0, 4, 0, 9, 0.9, 1]], np.float32)  # cut off at the border of the image
    with_it = np.concatenate([beside, boxes])
    assert agreement(with_it, with_it) == agreement(with_it, boxes) == (common, total)
    other = boxes.copy()
    other[:, :4] += 1
    shifted, _ = agreement(boxes, other)
    assert 0 < shifted < common
    other[:, 5] = 99
    assert agreement(boxes, other)[0] == 0
    nothing = np.empty((0, 6), np.float32)
    assert agreement(nothing, nothing) == (0.0, 0.0)
    assert agreement(boxes, nothing)[0] == 0
    assert iou(boxes[:1], boxes[:1])[0, 0] == pytest.approx(1)


def test_rank_correlations() -> None:
    first, second = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])
    assert ranks(np.array([3.0, 1, 3, 2])).tolist() == [2.5, 0, 2.5, 1]
    assert spearman(first, second) == pytest.approx(0.8)
    assert kendall(first, second) == pytest.approx(0.6)
    assert spearman(first, -first) == kendall(first, -first) == -1
    assert np.isnan(spearman(first, np.ones(5)))
    found = correlation(np.arange(30.0), np.arange(30.0) ** 2)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
