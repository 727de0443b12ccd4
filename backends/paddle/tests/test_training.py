"""Gradients and steps in Paddle, held to the reference in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from quantcore_paddle.fake_quantize import ActivationQuantizer, WeightQuantizer

from quantcore.calibration.driver import calibrate
from quantcore.contracts.session import SessionOptions
from quantcore.contracts.training import Coding, Rates, Target, TrainingSpec
from quantcore.training.reference import fake_quantize, gradients

ENDS = st.sampled_from([(0, -128, 127), (0, -8, 7), (13, 0, 255), (3, 0, 15)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 10), ENDS)
def test_gradients_are_the_reference(seed: int, scale: float, ends) -> None:
    random = np.random.default_rng(seed)
    # Beyond both ends, and on halves of a code.
    codes = random.integers(ends[1] - 20, ends[2] + 20, (2, 9)) - ends[0]
    x = (codes + random.choice([0.0, 0.25, 0.4999, -0.4], (2, 9))) * scale
    upstream = random.standard_normal(x.shape)
    tensor = paddle.to_tensor(x, stop_gradient=False)
    log = paddle.zeros([1], dtype="float64")
    log.stop_gradient = False
    found = ActivationQuantizer(Coding(scale, *ends), log)(tensor)
    (found * paddle.to_tensor(upstream)).sum().backward()
    by_x, by_log = gradients(x, scale, *ends, upstream)
    np.testing.assert_allclose(found.numpy(), fake_quantize(x, scale, *ends), atol=1e-12)
    np.testing.assert_allclose(tensor.grad.numpy(), by_x, atol=1e-12)
    assert log.grad.item() == pytest.approx(by_log, rel=1e-9, abs=1e-9)


def test_weights_in_their_own_range_pass_every_gradient() -> None:
    weight = paddle.randn([4, 3, 2, 2])
    weight.stop_gradient = False
    WeightQuantizer(0, 127)(weight).sum().backward()
    assert (weight.grad.numpy() == 1).all()


def test_weights_in_a_frozen_range_are_clipped() -> None:
    weight = paddle.to_tensor([[0.5, 2.0], [-0.1, 0.2]], stop_gradient=False)
    scale = paddle.to_tensor([[1 / 127], [1 / 127]])
    found = WeightQuantizer(0, 127, scale)(weight)
    found.sum().backward()
    assert found[0].tolist() == pytest.approx([64 / 127, 1.0])
    assert weight.grad.tolist() == [[1, 0], [1, 1]]


def stepped(backend, model, plan, batch, spec, steps, rates):
    """A calibration and a few steps towards other heads; (weights, ranges, losses, before)."""
    with backend.open(model, SessionOptions(device="cpu")) as session:
        ranges = calibrate(session, plan, [batch])
        targets = {
            name: Target(head + 0.1, np.full((1,) * head.ndim, 1 / head.size, np.float32))
            for name, head in session.forward(batch).items()
        }
        with session.training(plan, ranges, spec) as run:
            losses = [sum(run.step(batch, targets, rates).values()) for _ in range(steps)]
            return run.weights(), run.ranges(), losses, ranges


def test_every_kind_of_layer_is_trained(backend, model, make_plan, images) -> None:
    layers = frozenset(layer.name for layer in model.layers if layer.weights)
    rates = Rates(weights=1e-2, scales=0)
    given_ = (make_plan(model), images[:2], TrainingSpec(layers=layers), 30, rates)
    weights, _, losses, _ = stepped(backend, model, *given_)
    assert {w for layer in model.layers for w in layer.weights} <= weights.keys()
    for name, values in weights.items():
        assert values.shape == model.initializers[name].shape
        assert not np.array_equal(values, model.initializers[name])
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_matrix_comes_back_as_it_lies_in_the_graph(
    backend, make_model, make_plan, transposed: int
) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((5, 12) if transposed else (12, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], "fc", transB=transposed),
    ]
    model = make_model(nodes, {"w": weight}, {"y": None}, side=2)
    batch = random.random((2, 3, 2, 2), np.float32)
    given_ = (make_plan(model), batch, TrainingSpec(layers=frozenset(["fc"])), 2)
    weights, *_ = stepped(backend, model, *given_, Rates(weights=1e-2, scales=1e-2))
    moved = np.abs(weights["w"] - weight)
    assert 0 < moved.max() <= 0.021  # two steps of Adam, and not another matrix


def test_ranges_follow_the_batches_or_stay(backend, model, make_plan, images) -> None:
    plan = make_plan(model, observer="max")
    batch = images[:2]
    spec = TrainingSpec(layers=frozenset(plan.sites[0].consumers), activations="ema")
    rates = Rates(weights=0.0, scales=0.0, momentum=0.5)
    _, moved, _, ranges = stepped(backend, model, plan, batch, spec, 1, rates)
    largest = float(np.abs(batch).max())
    expected = 0.5 * (largest + ranges["images"].amax)
    assert moved["images"].amax == pytest.approx(expected, rel=1e-6)
    still = Rates(weights=0.0, scales=0.0)
    _, kept, *_ = stepped(backend, model, plan, batch, spec, 2, still)
    assert kept["images"] == ranges["images"]
