from __future__ import annotations

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from paddle.base import core
from paddle.nn.quant.quant_layers import FakeQuantMovingAverageAbsMax
from paddle.quantization import PTQ, ImperativePTQ, QuantConfig
from paddle.quantization.observers import AbsmaxObserver
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver
from quantcore_paddle.layer_map import framework_layer
from quantcore_paddle.quanted import QuantedConv2DTranspose, QuanterDequanter64, quanter_dequanter
from quantcore_paddle.session import _openmp_threads

from quantcore.analysis.agreement import audit
from quantcore.calibration.driver import calibrate
from quantcore.contracts import registry
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.model import ModelOptions
from quantcore.qdq.insertion import insert
from quantcore.table.table import CalibrationTable, Provenance, TensorRange


def audited(session, plan, batch, engine):
    ranges = calibrate(session, plan, [batch])
    table = CalibrationTable(
        ranges, Provenance(session.model.name, session.model.fingerprint, session.name)
    )
    with session.simulation(plan, ranges) as simulation:
        return audit(simulation, insert(session.model, plan, table), plan, batch, engine)


@pytest.mark.parametrize("observer", ["max", "percentile", "entropy", "moving_average"])
def test_the_simulation_agrees_with_the_shared_graph(
    session, model, make_plan, images, engine, observer
):
    found = audited(session, make_plan(model, observer=observer), images[:2], engine)
    assert found.worst_db >= 50
    assert found.heads_db >= 50


@pytest.mark.shared
def test_the_simulation_of_yolov5n_agrees_layer_by_layer(shared, backend, make_plan, engine):
    model = registry.load_model("yolov5n").load(
        shared / "weights/yolov5n-coco.pt", ModelOptions(image_size=160)
    )
    batch = np.random.default_rng(0).random((1, 3, 160, 160), dtype=np.float32)
    with backend.open(model, SessionOptions(device="cpu")) as session:
        found = audited(session, make_plan(model, observer="max"), batch, engine)
    assert found.worst_db >= 50


def test_quantizers_stay_out_of_the_float_forward(session, model, make_plan, images):
    before = session.forward(images)
    plan = make_plan(model, observer="percentile", percentile=95)
    simulation = session.simulation(plan, calibrate(session, plan, [images]))
    simulated, after = simulation.infer(images), session.forward(images)
    for name, head in before.items():
        assert np.array_equal(after[name], head)
        assert not np.array_equal(simulated[name], head)
    again = simulation.infer(images)
    assert all(np.array_equal(again[name], simulated[name]) for name in simulated)


def test_the_network_keeps_its_quantizers_at_hand(session, model, make_plan, images):
    plan = make_plan(model, observer="max")
    simulation = session.simulation(plan, calibrate(session, plan, [images]))
    with session.network.quantized(simulation.quantizers):
        look_at_the_network(session, model, plan)
    assert not session.network.weight_quantizers
    assert not session.network.activation_quantizers


def look_at_the_network(session, model, plan):
    network, names = session.network, dict(session.network.named_sublayers())
    weighted = {layer.name for layer in model.layers if layer.weights}
    assert set(network.weight_quantizers) == weighted
    assert set(network.activation_quantizers) == {
        site.tensor for site in plan.sites if site.role == "activation"
    }
    assert isinstance(names["model.3.up"], QuantedConv2DTranspose)
    assert names["model.3.up"].weight is network.layers["model.3.up"].weight
    assert "activation_quantizers.images" in names
    trained = {name for name, p in network.named_parameters() if not p.stop_gradient}
    assert {f"{name}.weight" for name in weighted} <= trained
    unique = [parameter.name for parameter in network.parameters()]
    assert len(unique) == len(set(unique))


def test_calibrating_beside_a_simulation_sees_the_float_network(session, model, make_plan, images):
    plan = make_plan(model, observer="percentile", percentile=95)
    ranges = calibrate(session, plan, [images])
    simulation = session.simulation(plan, ranges)

    def batches():
        simulation.infer(images)  # the network is the float one between two batches, too
        yield images

    before = simulation.infer(images)
    assert calibrate(session, plan, batches()) == ranges
    after = simulation.infer(images)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_session_takes_the_threads_that_it_is_given(backend, model, images):
    seen = []
    before = _openmp_threads()
    for threads in (None, before + 1, before + 2):
        with backend.open(model, SessionOptions(device="cpu", threads=threads)) as session:
            session.watch(images, {model.input_name: lambda _: seen.append(_openmp_threads())})
        assert _openmp_threads() == before
    assert seen == [before, before + 1, before + 2]


def test_forced_tensors_are_given_back_as_computed(session, model, make_plan, images):
    plan = make_plan(model, observer="max")
    simulation = session.simulation(plan, calibrate(session, plan, [images]))
    free = simulation.infer(images)
    layered = simulation.infer(images, {"t1": np.zeros((8, 8, 16, 15), np.float32)})
    assert layered["t1"].std() > 0
    assert not np.array_equal(layered["y"], free["y"])


def test_a_constant_zero_channel_stays_zero(session, model, make_plan, images):
    plan = make_plan(model, observer="max")
    ranges = dict(calibrate(session, plan, [images]))
    amax = list(ranges["w0"].amax)
    amax[0] = 0.0
    ranges["w0"] = TensorRange.symmetric("weight", amax, 0)
    simulated = session.simulation(plan, ranges).infer(images)
    assert np.isfinite(simulated["y"]).all()


def test_no_gpu_would_round_to_tf32(session, model, images):
    seen = []
    before = core.get_cudnn_switch(), core.get_cublas_switch()
    note = lambda _: seen.append((core.get_cudnn_switch(), core.get_cublas_switch()))  # noqa: E731
    session._watch(images[:1], {model.input_name: note})
    assert seen == [(False, False)]
    assert (core.get_cudnn_switch(), core.get_cublas_switch()) == before


def test_rounding_and_saturation_of_both_of_paddles_fake_quantizations():
    ties = np.array([0.5, 1.5, 2.5, -0.5, -127.9], dtype=np.float32)
    with paddle.no_grad():
        newer = quanter_dequanter(np.array(127.0), None, 8)(paddle.to_tensor(ties)).numpy()
        older = FakeQuantMovingAverageAbsMax()
        older.eval()
        older._scale.set_value(np.array([127], dtype=np.float32))
        away = older(paddle.to_tensor(ties)).numpy()
    assert newer.tolist() == [0, 2, 2, 0, -128]  # ONNX's own
    assert away.tolist() == [1, 2, 3, -1, -127]


@given(
    arrays(np.float32, (4, 5), elements=st.floats(-300, 300, width=32)),
    arrays(np.float32, 4, elements=st.floats(0.125, 128, width=32)),
    st.sampled_from([None, 0]),
    st.integers(2, 8),
)
def test_the_pair_in_float64_means_what_paddles_own_means(values, amax, axis, bits):
    amax = amax.astype(np.float64) if axis == 0 else amax[0].astype(np.float64)
    scale = (amax / (2 ** (bits - 1) - 1)).astype(np.float32)
    with paddle.no_grad():
        own = quanter_dequanter(amax, axis, bits)(paddle.to_tensor(values)).numpy()
        double = QuanterDequanter64(scale, axis, bits)
        found = double(paddle.to_tensor(values, dtype="float64")).numpy()
    scale = scale.reshape(-1, 1) if axis == 0 else scale
    codes = values.astype(np.float64) / scale
    halfway = np.abs(np.abs(codes - np.trunc(codes)) - 0.5) < 1e-4  # where float32 may differ
    assert np.allclose(found[~halfway], own[~halfway], rtol=1e-6, atol=0)
    assert (np.abs(found - own) <= 1.001 * scale).all()


def test_paddles_own_apis_recognise_the_layers(backend, model, images):
    batch = paddle.to_tensor(images)
    config = QuantConfig(activation=None, weight=None)
    config.add_type_config(paddle.nn.Conv2D, activation=AbsmaxObserver(), weight=None)
    with backend.open(model, SessionOptions(device="cpu")) as session:
        PTQ(config).quantize(session.network, inplace=True)(batch)
        wrapped = dict(session.network.named_sublayers())["model.0.conv"]
    assert wrapped.activation_quanter.scales().item() == images.max()
    with backend.open(model, SessionOptions(device="cpu")) as session:
        ImperativePTQ().quantize(session.network, inplace=True)
        hooked = {n for n, x in session.network.named_sublayers() if hasattr(x, "_quant_config")}
    assert hooked == {layer.name for layer in model.layers if framework_layer(layer)} - {
        "model.3.up"  # Conv2DTranspose, which Paddle's registry does not have
    }


def test_trainable_quantizers_fit_the_same_places(session, model, make_plan, images):
    for site in make_plan(model, observer="max").sites:
        quantizer = FakeQuanterWithAbsMaxObserver()._instance(None)
        if site.role == "activation":
            session.network.tap(site, quantizer)
        else:
            session.network.quantize_weight(site, quantizer)
    session.network.train()
    heads = session.network(paddle.to_tensor(images))
    sum(head.square().mean() for head in heads).backward()
    for layer in session.network.layers.values():
        if hasattr(layer, "weight"):
            assert layer.weight.grad.abs().max().item() > 0
    session.network.clear()
