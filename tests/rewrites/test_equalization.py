"""Ranges of channels, the factors that they give, and the check of what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from quantcore.contracts.registry import load_engine, load_rewrite
from quantcore.contracts.rewrite import check_same
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.errors import ModelError, RangeError, RewriteError, UsageError
from quantcore.ir.edits import exposed, with_constants
from quantcore.ir.model import FloatModel
from quantcore.results.rewrites import Rewritten
from quantcore.rewrites.channels import Channels
from quantcore.rewrites.equalization import EqualizationOptions, channel_ranges, factors

node = helper.make_node


@pytest.fixture(scope="module")
def engine():
    return load_engine("onnxruntime")


def equalize(model: FloatModel, photos: Batches, engine, **given: float) -> Rewritten:
    options = EqualizationOptions(**given)
    return load_rewrite("equalize").apply(model, None, photos, engine, options)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, 3, 16, 16)).astype(np.float32)


def batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[:2], images[2:4], images[4:]]


def peaks(run, model: FloatModel, tensors: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    values = run(exposed(model.proto, tensors), images)
    return {name: np.abs(values[name]).max(axis=(0, 2, 3)) for name in tensors}


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_ranges_are_the_largest_magnitudes_of_all_images(
    net, build, run, engine, images, opset: int
) -> None:
    nodes, constants = list(net.proto.graph.node), dict(net.initializers)
    model = build(nodes, constants, net.output_names, opset=opset)
    found = channel_ranges(model, batches(images), engine)
    assert list(found) == ["t1", "t3", "t6"]
    for name, wanted in peaks(run, model, list(found), images).items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5)


def test_nothing_to_measure(build, engine, images) -> None:
    nodes = [node("Conv", ["images", "w"], ["y"], "y")]
    model = build(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)})
    assert channel_ranges(model, [images], engine) == {}


@pytest.mark.parametrize(("op", "what"), [("Log", "NaN"), ("Exp", "infinite")])
@pytest.mark.parametrize("size", [2, 1])
def test_what_is_not_finite_is_named(build, engine, op: str, what: str, size: int) -> None:
    nodes = [
        node("Conv", ["images", "w"], ["a"], "a"),
        node(op, ["a"], ["b"], "b"),
        node("Relu", ["b"], ["c"], "c"),
        node("Conv", ["c", "w"], ["y"], "y"),
    ]
    model = build(nodes, {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)})
    images = np.ones((4, 3, 16, 16), np.float32)
    # Not at the corner of a tensor: from there alone a maximum would take NaN along.
    images[3, 1, 5, 7] = -1 if op == "Log" else 1000
    with pytest.raises(RangeError, match=f"'c': {what} in image 3 "):
        channel_ranges(model, np.split(images, 4 // size), engine)


def test_factors_are_powers_of_the_ranges() -> None:
    np.testing.assert_allclose(factors(np.array([4.0, 9.0]), 0.5), [2, 3])
    np.testing.assert_allclose(factors(np.array([4.0, 9.0]), 1.0), [4, 9])


def test_dead_channels_count_as_a_thousandth_and_dead_tensors_stay() -> None:
    np.testing.assert_allclose(factors(np.array([0.0, 1e-9, 100.0]), 1.0), [0.1, 0.1, 100])
    np.testing.assert_array_equal(factors(np.zeros(3), 0.5), np.ones(3))
    least = factors(np.array([1e-44, 0.0]), 1.0).astype(np.float32)
    assert np.isfinite(1 / least).all()


@pytest.fixture
def photos(shared_squares, net):
    """Six images for the small network."""
    images = CocoDataset.open(shared_squares.data, "train2017").select()
    return Batches(images, net.preprocessing, 2)


def test_with_alpha_one_all_channels_have_the_range_one(net, run, engine, photos) -> None:
    done = equalize(net, photos, engine, alpha=1.0)
    assert 0 < done.parity < 1e-5
    assert done.model.preprocessing == net.preprocessing
    assert done.details == {"multiplied": ["t1", "t6"], "folded": ["t3"]}
    inputs = np.concatenate(list(photos.inputs()))
    convolutions = Channels(done.model).layers.values()
    reads = [x.inputs[0] for x in convolutions if x.inputs[0] != "images"]
    for found in peaks(run, done.model, reads, inputs).values():
        np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_half_of_alpha_leaves_the_root_of_the_range(net, run, engine, photos) -> None:
    before = channel_ranges(net, photos.inputs(), engine)
    after = channel_ranges(equalize(net, photos, engine).model, photos.inputs(), engine)
    np.testing.assert_allclose(after["t3"], np.sqrt(before["t3"]), rtol=1e-5)


def test_what_only_depthwise_convolutions_read_is_equalized_fully(
    build, run, engine, photos
) -> None:
    rng = np.random.default_rng(3)
    spread = np.array([1.0, 0.1, 0.01], np.float32).reshape(-1, 1, 1, 1)
    constants = {
        "dense": rng.standard_normal((3, 3, 1, 1)).astype(np.float32) * spread,
        "depthwise": rng.standard_normal((3, 1, 3, 3)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["images", "dense"], ["a"], "a"),
        node("Sigmoid", ["a"], ["b"], "b"),
        node("Mul", ["a", "b"], ["only"], "only"),
        node("Conv", ["only", "depthwise"], ["c"], "c", group=3, pads=[1] * 4),
        node("Sigmoid", ["c"], ["d"], "d"),
        node("Mul", ["c", "d"], ["both"], "both"),
        node("MaxPool", ["both"], ["pooled"], "pooled", kernel_shape=[1, 1]),
        node("Conv", ["pooled", "depthwise"], ["y"], "y", group=3, pads=[1] * 4),
        node("Conv", ["both", "dense"], ["z"], "z"),
    ]
    model = build(nodes, constants, ("y", "z"))
    sources = Channels(model).sources()
    assert {name: source.depthwise for name, source in sources.items()} == {
        "only": True,
        "both": False,
    }
    new = equalize(model, photos, engine).model
    inputs = np.concatenate(list(photos.inputs()))
    reads = {layer.name: layer.inputs[0] for layer in new.layers}
    after = peaks(run, new, [reads["c"], reads["z"]], inputs)
    np.testing.assert_allclose(after[reads["c"]], 1, rtol=1e-5)
    before = peaks(run, model, ["both"], inputs)["both"]
    np.testing.assert_allclose(after[reads["z"]], np.sqrt(before), rtol=1e-5)


def test_the_same_images_give_the_same_graph(net, engine, photos) -> None:
    one, two = (equalize(net, photos, engine).model.fingerprint for _ in range(2))
    assert one == two != net.fingerprint


@pytest.mark.parametrize("alpha", [0.0, -0.5, 1.01, float("nan")])
def test_an_alpha_out_of_range_is_refused(net, engine, photos, alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha"):
        equalize(net, photos, engine, alpha=alpha)


def with_constant(model: FloatModel, name: str, values: np.ndarray) -> FloatModel:
    return replace(model, proto=with_constants(model.proto, {name: values}))


def test_a_graph_that_computes_something_else_is_refused(net, engine, images) -> None:
    assert check_same(net, net, [images], engine) == 0
    bias = net.initializers["b4"]
    near = with_constant(net, "b4", bias * np.float32(1 + 1e-6))
    assert 0 < check_same(net, near, [images], engine) < 1e-5
    with pytest.raises(RewriteError, match="'z'"):
        check_same(net, with_constant(net, "b4", bias * np.float32(1.01)), [images], engine)
    with pytest.raises(RewriteError, match="nan relative at output 'z'"):
        check_same(net, with_constant(net, "b4", bias * np.float32("nan")), [images], engine)


def test_a_model_that_is_broken_itself_is_named_as_such(net, engine, images) -> None:
    broken = with_constant(net, "b4", np.full(4, np.inf, np.float32))
    with pytest.raises(ModelError, match="b4"):
        check_same(broken, broken, [images], engine)


def test_the_files_that_were_read_are_named(build, engine, photos) -> None:
    nodes = [
        node("Conv", ["images", "w"], ["a"], "a"),
        node("Log", ["a"], ["b"], "b"),
        node("Conv", ["b", "w"], ["y"], "y"),
    ]
    minus = -np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    with pytest.raises(RangeError, match=r"'b': NaN in image 0 .*seen in one of 1\.png, 2\.png"):
        equalize(build(nodes, {"w": minus}), photos, engine)
