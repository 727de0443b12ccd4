"""Gradients and steps in torch, held to the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from quantcore_pytorch_quantization.fake_quantize import (
    ActivationQuantizer,
    FakeQuantize,
    WeightQuantizer,
)

from quantcore.calibration.driver import calibrate
from quantcore.contracts.session import SessionOptions
from quantcore.contracts.training import Coding, Rates, Target, TrainingSpec
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.training.reference import fake_quantize, gradients

node = helper.make_node
ENDS = st.sampled_from([(0, -128, 127), (0, -8, 7), (13, 0, 255), (3, 0, 15)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 10), ENDS)
def test_gradients_are_the_reference(seed: int, scale: float, ends) -> None:
    random = np.random.default_rng(seed)
    # Beyond both ends, and on halves of a code.
    codes = random.integers(ends[1] - 20, ends[2] + 20, (2, 9)) - ends[0]
    x = (codes + random.choice([0.0, 0.25, 0.4999, -0.4], (2, 9))) * scale
    upstream = random.standard_normal(x.shape)
    tensor = torch.tensor(x, requires_grad=True)
    log = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    found = ActivationQuantizer(Coding(scale, *ends), log)(tensor)
    found.backward(torch.tensor(upstream))
    by_x, by_log = gradients(x, scale, *ends, upstream)
    np.testing.assert_allclose(found.detach(), fake_quantize(x, scale, *ends), atol=1e-12)
    np.testing.assert_allclose(tensor.grad, by_x, atol=1e-12)
    assert log.grad.item() == pytest.approx(by_log, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("ends", [(0, -128, 127), (13, 0, 255)])
def test_torchs_own_kernel_means_the_same(ends) -> None:
    random = np.random.default_rng(0)
    x = (random.uniform(-200, 300, (2, 500)) * 0.0625).astype(np.float32)
    upstream = random.standard_normal(x.shape).astype(np.float32)
    tensor = torch.tensor(x, requires_grad=True)
    log = torch.zeros(1, requires_grad=True)
    found = ActivationQuantizer(Coding(0.0625, *ends), log)(tensor)
    found.backward(torch.tensor(upstream))
    by_x, by_log = gradients(x.astype(np.float64), 0.0625, *ends, upstream.astype(np.float64))
    np.testing.assert_array_equal(found.detach(), fake_quantize(x, 0.0625, *ends))
    np.testing.assert_array_equal(tensor.grad, by_x)
    assert log.grad.item() == pytest.approx(by_log, rel=1e-4)


def test_weights_in_their_own_range_pass_every_gradient() -> None:
    weight = torch.randn(4, 3, 2, 2, requires_grad=True)
    upstream = torch.randn_like(weight)
    WeightQuantizer(0, 127)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_weights_in_a_frozen_range_are_clipped() -> None:
    weight = torch.tensor([[0.5, 2.0], [-0.1, 0.2]], requires_grad=True)
    scale = torch.tensor([[1 / 127], [1 / 127]])
    found = WeightQuantizer(0, 127, scale)(weight)
    found.sum().backward()
    assert found[0].tolist() == pytest.approx([64 / 127, 1.0])
    assert weight.grad.tolist() == [[1, 0], [1, 1]]
    assert FakeQuantize.apply(weight.detach(), scale, 0, -128, 127, 1.0).shape == (2, 2)


def stepped(backend, model, policy, batch, spec, steps=2, rates=None):
    """A calibration and a few steps towards other heads; (weights, ranges, losses)."""
    sites = plan(model, CalibrationPolicy.from_dict({"placement": "minimal", **policy}))
    with backend.open(model, SessionOptions(device="cpu", threads=1)) as session:
        ranges = calibrate(session, sites, [batch])
        heads = session.forward(batch)
        targets = {
            name: Target(head + 0.1, np.full((1,) * head.ndim, 1 / head.size, np.float32))
            for name, head in heads.items()
        }
        rates = rates or Rates(weights=1e-2, scales=1e-2)
        with session.training(sites, ranges, spec) as run:
            losses = [sum(run.step(batch, targets, rates).values()) for _ in range(steps)]
            return run.weights(), run.ranges(), losses, ranges


def test_every_kind_of_layer_is_trained(backend, net, images) -> None:
    layers = frozenset(layer.name for layer in net.layers if layer.weights)
    weights, _, losses, _ = stepped(
        backend, net, {}, images[0], TrainingSpec(layers=layers), 30, Rates(weights=1e-2, scales=0)
    )
    assert weights.keys() == {"w0", "b0", "w1", "w2", "b2", "w3", "w4", "b4", "w5"}
    for name, values in weights.items():
        assert values.shape == net.initializers[name].shape
        assert not np.array_equal(values, net.initializers[name])
    assert losses[-1] < 0.5 * losses[0]


def test_only_what_is_asked_for_is_trained(backend, net, images) -> None:
    weights, *_ = stepped(backend, net, {}, images[0], TrainingSpec(layers=frozenset(["m.2.conv"])))
    assert weights.keys() == {"w2", "b2"}


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_a_matrix_comes_back_as_it_lies_in_the_graph(backend, build, op: str) -> None:
    random = np.random.default_rng(0)
    nodes = [
        node("Flatten", ["images"], ["f"], "flat"),
        node(op, ["f", "w"], ["y"], "fc"),
    ]
    weight = random.standard_normal((12, 5)).astype(np.float32)
    model = build(nodes, {"w": weight}, ("y",), (3, 2, 2))
    batch = random.random((2, 3, 2, 2), np.float32)
    spec = TrainingSpec(layers=frozenset(["fc"]))
    weights, *_ = stepped(backend, model, {}, batch, spec)
    assert weights["w"].shape == weight.shape
    moved = np.abs(weights["w"] - weight)
    assert 0 < moved.max() <= 0.021  # two steps of Adam, and not another matrix


def test_ranges_follow_the_batches(backend, net, images) -> None:
    layers = frozenset(["m.2.conv"])
    rates = Rates(weights=0.0, scales=0.0, momentum=0.5)
    spec = TrainingSpec(layers=layers, activations="ema")
    _, moved, _, ranges = stepped(backend, net, {}, images[0], spec, 1, rates)
    largest = float(np.abs(images[0]).max())
    assert ranges["images"].amax < largest
    between = 0.5 * (largest + ranges["images"].amax)
    assert moved["images"].amax == pytest.approx(between, rel=1e-6)
    still = Rates(weights=0.0, scales=0.0)
    _, kept, *_ = stepped(backend, net, {}, images[0], spec, 3, still)
    assert kept["images"] == ranges["images"]


def test_frozen_ranges_stay(backend, net, images) -> None:
    layers = frozenset(layer.name for layer in net.layers if layer.weights)
    spec = TrainingSpec(layers=layers, activations="frozen", weights="frozen")
    _, moved, _, ranges = stepped(backend, net, {}, images[0], spec)
    for name, found in ranges.items():
        np.testing.assert_allclose(moved[name].amax_array, found.amax_array, rtol=1e-6)
