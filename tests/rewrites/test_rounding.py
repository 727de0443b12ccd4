"""GPTQ and bias correction: outputs change less than where weights are merely rounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from quantcore.contracts.registry import load_engine, load_rewrite
from quantcore.data.batches import Batches
from quantcore.data.coco import CocoDataset
from quantcore.errors import UsageError
from quantcore.ir.edits import exposed, with_constants
from quantcore.policy.code import KNOWN
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.qdq.scales import symmetric_scale
from quantcore.rewrites.patches import moments
from quantcore.rewrites.rounding import gptq, plan_of
from quantcore.testing.models import small_detector

node = helper.make_node
INT4 = KNOWN["int4"]


@pytest.fixture(scope="module")
def engine():
    return load_engine("onnxruntime")


@pytest.fixture
def photos(shared_squares, net):
    """Six images for the small network."""
    images = CocoDataset.open(shared_squares.data, "train2017").select()
    return Batches(images, net.preprocessing, 2)


@pytest.fixture
def larger(shared_squares):
    """The same for the small detector."""
    images = CocoDataset.open(shared_squares.data, "train2017").select()
    return Batches(images, small_detector().preprocessing, 2)


def tables(model, table, **weights):
    policy = CalibrationPolicy.from_dict({"placement": "minimal", "weights": weights})
    found = table(model, plan(model, policy))
    return replace(found, provenance=replace(found.provenance, policy=policy.to_dict()))


def test_rounding_makes_up_for_what_it_did() -> None:
    random = np.random.default_rng(0)
    mixed = random.standard_normal((16, 16))
    x = mixed @ random.standard_normal((16, 400))
    weight = random.standard_normal((5, 16))
    scales = np.abs(weight).max(axis=1) / 7
    plain = np.rint(weight / scales[:, None]) * scales[:, None]
    found = gptq(weight, x @ x.T, scales, (-8, 7), 0.01)
    codes = found / scales[:, None]
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-9)
    errors = [float(np.square((w - weight) @ x).sum()) for w in (found, plain)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("group", [1, 4])
def test_moments_are_those_of_what_a_convolution_multiplies(build, engine, run, group) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 8 // group, 3, 2)).astype(np.float32)
    geometry = {"pads": [1, 0, 2, 1], "strides": [2, 1], "group": group, "dilations": [1, 2]}
    first = random.standard_normal((8, 3, 1, 1)).astype(np.float32)
    nodes = [
        node("Conv", ["images", "w0"], ["t"], "a"),
        node("Conv", ["t", "w"], ["y"], "b", **geometry),
    ]
    model = build(nodes, {"w0": first, "w": weight})
    batch = random.random((2, 3, 16, 16), np.float32)
    seen = moments(model, [model.layers[1]], [batch], engine, 10**6)["b"]
    rows = weight.reshape(group, 8 // group, -1).astype(np.float64)
    outputs = run(model.proto, batch)["y"].astype(np.float64)
    mean = np.einsum("gok,gk->go", rows, seen.mean).reshape(-1)
    np.testing.assert_allclose(mean, outputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    power = np.einsum("gok,gkl,gol->go", rows, seen.second, rows).reshape(-1) / seen.count
    np.testing.assert_allclose(power, np.square(outputs).mean((0, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("name", ["gptq", "bias-correction"])
def test_the_graph_is_nearer_to_float(name: str, table, larger, engine, run) -> None:
    model = small_detector()
    ranges = tables(model, table, bits=4)
    found = load_rewrite(name).apply(model, ranges, larger, engine)
    assert found.table is not None
    assert found.model.fingerprint != model.fingerprint
    assert found.table.tensors == ranges.tensors
    batch = np.concatenate([b.images for b in larger])
    reference = run(model.proto, batch)["head.out"]

    def error(of, ranges_) -> float:
        graph = insert(of, plan_of(of, ranges_), ranges_).proto
        return float(np.square(run(graph, batch)["head.out"] - reference).mean())

    assert error(found.model, found.table) < error(model, ranges)


def test_rounded_weights_are_on_their_codes(table, larger, engine) -> None:
    model = small_detector()
    ranges = tables(model, table, bits=4)
    found = load_rewrite("gptq").apply(model, ranges, larger, engine)
    done = found.details["layers"]
    assert "up" not in done  # transposed
    for layer in model.layers:
        if layer.name in done:
            name = layer.weights[0]
            scale = symmetric_scale(ranges.tensors[name], INT4)
            codes = found.model.initializers[name] / scale.reshape(-1, 1, 1, 1)
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
            assert np.abs(codes).max() < 8.01


def test_a_layer_without_bias_is_given_one_and_keeps_its_mean(
    net, table, photos, engine, run
) -> None:
    ranges = tables(net, table, bits=4)
    found = load_rewrite("bias-correction").apply(net, ranges, photos, engine)
    nodes = {n.name: n for n in found.model.proto.graph.node}
    assert len(nodes["m.1.conv"].input) == 3
    scale = symmetric_scale(ranges.tensors["w1"], INT4).reshape(-1, 1, 1, 1)
    rounded = {"w1": (np.rint(net.initializers["w1"] / scale) * scale).astype(np.float32)}
    # What comes before it is float here, so that its own rounding is all that there is.
    names = ("w0", "b0", "w2", "b2")
    same = {name: np.asarray(net.initializers[name]) for name in names}
    batch = np.concatenate([b.images for b in photos])
    means = [
        run(exposed(proto, ["t2"]), batch)["t2"].mean((0, 2, 3))
        for proto in (
            net.proto,
            with_constants(found.model.proto, {**same, **rounded}),
            with_constants(net.proto, rounded),
        )
    ]
    np.testing.assert_allclose(means[1], means[0], atol=1e-4)
    assert np.abs(means[2] - means[0]).max() > 1e-3


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="damping above 0"):
        load_rewrite("gptq").make_options([("damping", "0")])
