"""Calibration and simulation: the toolkit's own ranges, and a session that leaks nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from pytorch_quantization import calib

from quantcore.analysis.agreement import audit, check_parity
from quantcore.calibration.driver import calibrate
from quantcore.contracts.backend import BackendSession, SessionOptions
from quantcore.contracts.registry import load_engine
from quantcore.errors import BackendError, CapabilityError, QuantcoreError, RangeError
from quantcore.qdq.insertion import insert
from quantcore.table.table import CalibrationTable, Provenance, TensorRange

SEARCH = {"bins": 256, "start_bin": 32, "stride": 4}
ALL = {"match": "*", "quantize": True}


@pytest.fixture
def session(backend, net) -> Iterator[BackendSession]:
    with backend.open(net, SessionOptions(device="cpu")) as opened:
        yield opened


@pytest.fixture
def calibrated(backend, net, planned, images):
    """Ranges of a fresh session under a policy."""

    def make(batches: Any = images, model: Any = net, **policy: Any) -> dict[str, TensorRange]:
        with backend.open(model, SessionOptions(device="cpu")) as opened:
            return calibrate(opened, planned(model, **policy), batches)

    return make


def activations(ranges: dict[str, TensorRange]) -> dict[str, Any]:
    return {name: r.amax for name, r in ranges.items() if r.role == "activation"}


# Ranges.


def keeper(seen: dict[str, torch.Tensor], name: str) -> Any:
    return lambda x: seen.setdefault(name, x)


def test_max_is_the_largest_magnitude_of_every_batch(calibrated, net, tensors, images, run) -> None:
    found = activations(calibrated(activations={"observer": "max"}))
    assert found.keys() == {"images", "t1", "t3", "t9", "t10"}
    assert found["images"] == float(max(np.abs(b).max() for b in images))
    for name, batches in tensors(net, list(found), images).items():
        # Torch and ONNX Runtime sum in another order.
        assert found[name] == pytest.approx(max(np.abs(b).max() for b in batches), rel=1e-6)


def test_max_is_exact_where_nothing_is_computed(calibrated, build) -> None:
    nodes = [
        helper.make_node("Relu", ["images"], ["a"], "act"),
        helper.make_node("Conv", ["a", "w"], ["y"], "conv"),
    ]
    model = build(nodes, {"w": np.ones((2, 3, 1, 1), np.float32)})
    batches = [
        np.random.default_rng(s).standard_normal((2, 3, 12, 10)).astype("f4") for s in (1, 2)
    ]
    found = calibrated(batches, model, activations={"observer": "max"})
    assert found["a"].amax == float(max(b.max() for b in batches))
    assert (found["a"].min, found["a"].max) == (-found["a"].amax, found["a"].amax)


@pytest.mark.parametrize(
    ("policy", "compute", "bins"),
    [
        ({"observer": "percentile"}, {"method": "percentile", "percentile": 99.99}, 2048),
        (
            {"observer": "percentile", "percentile": 95, "bins": 300},
            {"method": "percentile", "percentile": 95},
            300,
        ),
        (
            {"observer": "entropy", **SEARCH},
            {"method": "entropy", "start_bin": 32, "stride": 4},
            256,
        ),
        ({"observer": "mse", **SEARCH}, {"method": "mse", "start_bin": 32, "stride": 4}, 256),
    ],
    ids=["percentile", "percentile 95", "entropy", "mse"],
)
def test_histogram_observers_equal_the_toolkit_fed_by_hand(
    calibrated, backend, net, images, monkeypatch, policy, compute, bins
) -> None:
    if compute["method"] == "mse" and not torch.cuda.is_available():
        monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
    found = activations(calibrated(activations=policy))
    by_hand = {name: calib.HistogramCalibrator(8, None, False, num_bins=bins) for name in found}
    with backend.open(net, SessionOptions(device="cpu")) as opened, torch.inference_mode():
        for batch in images:
            seen: dict[str, torch.Tensor] = {}

            opened.network(torch.tensor(batch), {name: keeper(seen, name) for name in found})
            for name, value in seen.items():
                by_hand[name].collect(value)
        for name, calibrator in by_hand.items():
            assert found[name] == float(calibrator.compute_amax(**compute)), name


def test_the_observers_differ(calibrated) -> None:
    found = {
        name: activations(calibrated(activations={"observer": name, **keys}))["t1"]
        for name, keys in (("max", {}), ("percentile", {"percentile": 99}), ("mse", SEARCH))
    }
    assert len(set(found.values())) == 3
    assert found["percentile"] < found["max"]


@pytest.mark.parametrize(("tensor", "axis"), [("w0", 0), ("w1", 0), ("w3", 1), ("w4", 0)])
def test_weights_are_observed_along_their_output_channels(calibrated, net, tensor, axis) -> None:
    found = calibrated(activations={"observer": "max"})[tensor]
    weight = np.abs(net.initializers[tensor])
    assert found.axis == axis
    rest = tuple(i for i in range(weight.ndim) if i != axis)
    np.testing.assert_array_equal(found.amax, weight.max(axis=rest))


# As many inputs as outputs, too: the wrong axis would have the right length.
@pytest.mark.parametrize("shape", [(6, 9), (6, 6)])
@pytest.mark.parametrize(("op", "keys"), [("Gemm", {}), ("MatMul", {}), ("Gemm", {"transB": 1})])
def test_linear_layers_are_coded_by_output_however_they_lie(
    backend, build, planned, shape, op, keys
) -> None:
    plain = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    plain *= np.geomspace(0.01, 10, shape[1]).astype(np.float32)
    weight = np.ascontiguousarray(plain.T) if keys else plain
    node = helper.make_node(op, ["images", "w"], ["y"], "fc", **keys)
    model = build([node], {"w": weight}, shape=(6,))
    plan = planned(model, activations={"observer": "max"})
    batch = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    with backend.open(model, SessionOptions(device="cpu")) as opened:
        ranges = calibrate(opened, plan, [batch])
        np.testing.assert_array_equal(ranges["w"].amax, np.abs(plain).max(axis=0))
        assert ranges["w"].axis == (0 if keys else 1)
        table = CalibrationTable(ranges, Provenance(model.name, model.fingerprint, "x"))
        qdq = insert(model, plan, table)
        with opened.simulation(plan, ranges) as simulation:
            found = audit(simulation, qdq, plan, batch, load_engine("onnxruntime"))
    assert found.worst_db >= 100


def test_weights_per_tensor_have_one_range(calibrated, net) -> None:
    found = calibrated(activations={"observer": "max"}, weights={"granularity": "per_tensor"})
    for tensor in ("w0", "w3", "w5"):
        assert found[tensor].amax == float(np.abs(net.initializers[tensor]).max())


def test_every_site_has_a_range_in_the_order_of_the_plan(calibrated, net, planned) -> None:
    found = calibrated(layers=[ALL], activations={"observer": "max"})
    assert list(found) == [site.tensor for site in planned(net, layers=[ALL]).sites]
    assert {"t2", "t5", "t6", "t7"} <= found.keys()


def test_rules_choose_the_observer_of_a_layer(calibrated) -> None:
    rules = [{"match": "m.3.up", "activations": {"observer": "percentile", "percentile": 50}}]
    plain = activations(calibrated(activations={"observer": "max"}))
    ruled = activations(calibrated(activations={"observer": "max"}, layers=rules))
    assert ruled["t3"] < plain["t3"]
    assert {n: v for n, v in ruled.items() if n != "t3"} == {
        n: v for n, v in plain.items() if n != "t3"
    }


def test_a_layer_that_a_rule_leaves_out_is_not_observed(calibrated) -> None:
    found = calibrated(layers=[{"match": "m.3.*", "quantize": False}])
    assert {"t3", "w3"}.isdisjoint(found)


def test_a_shared_tensor_is_observed_once_a_batch(
    session, net, planned, images, monkeypatch
) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    collect = calib.MaxCalibrator.collect

    def counted(self: Any, x: torch.Tensor) -> None:
        seen[tuple(x.shape)] += 1
        collect(self, x)

    monkeypatch.setattr(calib.MaxCalibrator, "collect", counted)
    calibrate(session, planned(net, activations={"observer": "max"}), images)
    assert seen[(2, 8, 8, 8)] == len(images), "t1, which two layers read"
    assert seen[(2, 16)] == len(images), "t9"
    assert seen[(8, 3, 3, 3)] == 1, "weights do not change"


def test_two_runs_are_equal_bit_for_bit(calibrated) -> None:
    one, two = (calibrated(activations={"observer": "entropy", **SEARCH}) for _ in range(2))
    assert one == two


def test_a_session_calibrates_again_from_scratch(session, net, planned, images) -> None:
    plan = planned(net, activations={"observer": "max"})
    first = calibrate(session, plan, images)
    small = calibrate(session, plan, [images[0] * np.float32(0.25)])
    assert small["images"].amax < first["images"].amax / 4
    assert calibrate(session, plan, images) == first


def test_the_batch_size_does_not_change_max(calibrated, images) -> None:
    together = np.concatenate(images)
    batched = activations(calibrated([together], activations={"observer": "max"}))
    alone = activations(calibrated([i[None] for i in together], activations={"observer": "max"}))
    for name, value in batched.items():
        assert alone[name] == pytest.approx(value, rel=1e-6)
    assert alone["images"] == batched["images"]


# Refusals.


class Untouched:
    """Batches that must not be read."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("an image was read")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"activations": {"observer": "moving_average"}}, "observer 'moving_average'; it has"),
        ({"weights": {"observer": "percentile"}}, "observer 'percentile'; it has max"),
    ],
)
def test_what_the_toolkit_has_not_is_refused_before_an_image_is_read(
    session, net, planned, policy, message
) -> None:
    with pytest.raises(CapabilityError, match=message):
        calibrate(session, planned(net, **policy), Untouched())


@pytest.mark.parametrize("device", ["tpu", "CPU", "cuda:7"])
def test_an_unknown_device_is_refused(backend, net, device) -> None:
    with pytest.raises(CapabilityError, match=f"no device '{device}' here; it has: cpu"):
        backend.open(net, SessionOptions(device=device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_missing_gpu_is_refused(backend, net) -> None:
    with pytest.raises(CapabilityError, match="no device 'cuda' here; it has: cpu"):
        backend.open(net, SessionOptions(device="cuda"))


@pytest.mark.parametrize("observer", ["max", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 1])
def test_an_activation_that_is_not_finite_is_named(
    calibrated, images, observer, bad, position
) -> None:
    batches = [images[0].copy(), images[1].copy()]
    batches[position][0, 0, 3, 3] = bad
    keys = SEARCH if observer in ("mse", "entropy") else {}
    with pytest.raises(RangeError, match=r"'images' of layer m\.0\.conv"):
        calibrated(batches, activations={"observer": observer, **keys})


def test_a_weight_that_is_not_finite_is_named(calibrated, build) -> None:
    weight = np.ones((2, 3, 1, 1), np.float32)
    weight[1, 0] = np.nan
    model = build([helper.make_node("Conv", ["images", "w"], ["y"], "conv")], {"w": weight})
    with pytest.raises(RangeError, match=r"weight 'w' of layer conv: .*channel 1"):
        calibrated([np.ones((1, 3, 12, 10), np.float32)], model)


def test_a_dead_channel_has_a_range_of_zero(calibrated, build) -> None:
    weight = np.ones((2, 3, 1, 1), np.float32)
    weight[1] = 0
    model = build([helper.make_node("Conv", ["images", "w"], ["y"], "conv")], {"w": weight})
    found = calibrated([np.ones((1, 3, 12, 10), np.float32)], model)
    assert found["w"].amax == (1.0, 0.0)


@pytest.mark.parametrize(
    "observer",
    [
        {"observer": "percentile"},
        {"observer": "mse", **SEARCH},
        {"observer": "entropy", "bins": 64, "start_bin": 32, "stride": 8},
    ],
    ids=lambda keys: keys["observer"],
)
def test_an_activation_that_is_constant_zero_is_refused_in_words(calibrated, observer) -> None:
    dark = [np.zeros((2, 3, 16, 16), np.float32)]
    with pytest.raises(QuantcoreError, match=r"'images'.*observer max"):
        calibrated(dark, activations=observer)
    assert calibrated(dark, activations={"observer": "max"})["images"].amax == 0


def test_no_images_at_all_are_refused_in_words(calibrated) -> None:
    for observer in ("max", "percentile"):
        with pytest.raises(BackendError, match=r"'images'.*saw no data"):
            calibrated([], activations={"observer": observer})


def test_a_histogram_smaller_than_its_start_is_refused_in_words(calibrated) -> None:
    keys = {"observer": "entropy", "bins": 64, "start_bin": 128}
    with pytest.raises(BackendError, match=r"layer m.*no 'entropy' threshold"):
        calibrated(activations=keys)


# Simulation.


@pytest.fixture
def shared_graph(net, planned):
    """A plan, ranges of some session, and the Q/DQ graph of both."""

    def make(session: BackendSession, batches: Any, **policy: Any):
        plan = planned(net, **policy)
        ranges = calibrate(session, plan, batches)
        table = CalibrationTable(ranges, Provenance(net.name, net.fingerprint, session.name))
        return plan, ranges, insert(net, plan, table)

    return make


def test_the_materialised_network_agrees_with_the_float_graph(session) -> None:
    assert check_parity(session, load_engine("onnxruntime")) < 1e-5


@pytest.mark.parametrize(
    "policy",
    [
        {"activations": {"observer": "max"}},
        {"activations": {"observer": "percentile"}},
        {"activations": {"observer": "max"}, "weights": {"granularity": "per_tensor"}},
        {"activations": {"observer": "max"}, "layers": [ALL]},
        {"activations": {"observer": "max"}, "layers": [{"match": "m.1.*", "quantize": False}]},
    ],
    ids=["max", "percentile", "per tensor", "all", "rule"],
)
def test_the_shared_graph_is_what_the_toolkit_simulates(
    session, shared_graph, images, policy
) -> None:
    plan, ranges, qdq = shared_graph(session, images, **policy)
    with session.simulation(plan, ranges) as simulation:
        found = audit(simulation, qdq, plan, images[1], load_engine("onnxruntime"))
    assert found.worst_db >= 50
    assert found.heads_db >= 50


def test_simulation_quantizes(session, shared_graph, images) -> None:
    plan, ranges, _ = shared_graph(session, images)
    with session.simulation(plan, ranges) as simulation:
        plain, coded = session.forward(images[0]), simulation.infer(images[0])
    for name, values in plain.items():
        assert np.abs(coded[name] - values).max() > 1e-4 * np.abs(values).max()


def test_dead_channels_simulate_as_they_are_written(backend, build, planned, run) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    weight[1] = 0
    bias = np.array([1, 2, 3, 4], np.float32)
    node = helper.make_node("Conv", ["images", "w", "b"], ["y"], "conv")
    model = build([node], {"w": weight, "b": bias})
    plan = planned(model, activations={"observer": "max"})
    batch = np.random.default_rng(1).random((1, 3, 12, 10), dtype=np.float32)
    with backend.open(model, SessionOptions(device="cpu")) as opened:
        ranges = calibrate(opened, plan, [batch])
        found = opened.simulation(plan, ranges).infer(batch)["y"]
    table = CalibrationTable(ranges, Provenance(model.name, model.fingerprint, "x"))
    expected = run(insert(model, plan, table).proto, batch)["y"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found[:, 1] == 2).all()


def test_the_float_network_is_unaffected_by_a_simulation(session, shared_graph, images) -> None:
    before = session.forward(images[0])
    plan, ranges, _ = shared_graph(session, images)
    simulation = session.simulation(plan, ranges)
    first = simulation.infer(images[0])
    after = session.forward(images[0])
    again = simulation.infer(images[0])
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
        np.testing.assert_array_equal(first[name], again[name])


def test_a_simulation_knows_nothing_of_another(session, shared_graph, net, planned, images) -> None:
    plan, ranges, _ = shared_graph(session, images)
    quantized = session.simulation(plan, ranges)
    first = quantized.infer(images[0])
    bare = session.simulation(planned(net, layers=[{"match": "*", "quantize": False}]), {})
    plain = session.forward(images[0])
    for name, values in bare.infer(images[0]).items():
        np.testing.assert_array_equal(values, plain[name])
    for name, values in quantized.infer(images[0]).items():
        np.testing.assert_array_equal(values, first[name])


def test_calibrating_beside_a_simulation_sees_the_float_network(
    session, shared_graph, images
) -> None:
    plan, ranges, _ = shared_graph(session, images)
    with session.simulation(plan, ranges) as simulation:

        def batches():
            for batch in images:  # the network is the float one between two batches, too
                simulation.infer(batch)
                yield batch

        assert calibrate(session, plan, batches()) == ranges


def test_a_failure_takes_the_quantizers_out(session, shared_graph, images) -> None:
    before = session.forward(images[0])
    plan, ranges, _ = shared_graph(session, images)
    with pytest.raises(RuntimeError, match="channels"):
        session.simulation(plan, ranges).infer(images[0][:, :1])
    for name, values in session.forward(images[0]).items():
        np.testing.assert_array_equal(values, before[name])


def test_ranges_of_another_framework_can_be_applied(session, net, planned, images) -> None:
    plan = planned(net)
    foreign = {
        site.tensor: TensorRange.symmetric(
            site.role,
            1.5 if site.axis is None else [1.5] * net.initializers[site.tensor].shape[site.axis],
            site.axis,
        )
        for site in plan.sites
    }
    simulation = session.simulation(plan, foreign)
    coarse = simulation.infer(images[0])["y"]
    table = CalibrationTable(foreign, Provenance(net.name, net.fingerprint, "x"))
    qdq = insert(net, plan, table)
    found = audit(simulation, qdq, plan, images[0], load_engine("onnxruntime"))
    assert found.worst_db >= 50
    assert np.isfinite(coarse).all()


def test_a_missing_range_is_refused(session, net, planned) -> None:
    with pytest.raises(RangeError, match=r"'images' of layer 'm\.0\.conv'"):
        session.simulation(planned(net), {})


def test_forced_values_replace_and_are_returned(session, shared_graph, images) -> None:
    plan, ranges, _ = shared_graph(session, images)
    simulation = session.simulation(plan, ranges)
    free = simulation.infer(images[0])
    zero = np.zeros((2, 8, 8, 8), np.float32)
    forced = simulation.infer(images[0], {"t1": zero})
    assert np.abs(forced["t1"]).max() > 0, "what was computed, not what was put in its place"
    assert np.abs(forced["t4"] - free["t4"]).max() > 0
    same = simulation.infer(images[0], {"t1": forced["t1"]})
    np.testing.assert_array_equal(same["t4"], free["t4"])


# Nothing leaks.


def test_the_float_model_is_untouched(backend, net, shared_graph, images) -> None:
    before = net.proto.SerializeToString(deterministic=True)
    weights = {name: values.copy() for name, values in net.initializers.items()}
    with backend.open(net, SessionOptions(device="cpu")) as opened:
        plan, ranges, _ = shared_graph(opened, images)
        opened.simulation(plan, ranges).infer(images[0])
        for parameter in opened.network.parameters():
            parameter.data += 1
    assert net.proto.SerializeToString(deterministic=True) == before
    for name, values in net.initializers.items():
        np.testing.assert_array_equal(values, weights[name])


def test_the_images_are_untouched(session, net, planned, images) -> None:
    kept = [image.copy() for image in images]
    for image in images:
        image.flags.writeable = False
    calibrate(session, planned(net, layers=[ALL]), images)
    for image, before in zip(images, kept, strict=True):
        np.testing.assert_array_equal(image, before)


def test_torch_is_as_it_was(calibrated) -> None:
    original = torch.Tensor.cuda
    calibrated(activations={"observer": "mse", **SEARCH})
    assert torch.Tensor.cuda is original
    for name in ("Conv2d", "ConvTranspose2d", "Linear", "MaxPool2d", "AvgPool2d"):
        assert getattr(torch.nn, name).__module__.startswith("torch.nn")
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_no_gpu_would_round_to_tf32(session, net, images) -> None:
    seen = []
    session._watch(images[0], {net.input_name: lambda _: seen.append(cudnn_allows())})
    assert seen == [(False, True)]
    assert cudnn_allows() == (True, False)


def cudnn_allows() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic


def test_a_session_takes_the_threads_that_it_is_given(backend, net, images) -> None:
    seen: list[int] = []

    def note(values: Any) -> None:
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    for threads in (None, before + 1, before + 2):
        with backend.open(net, SessionOptions(device="cpu", threads=threads)) as opened:
            opened.watch(images[0], {net.input_name: note})
        assert torch.get_num_threads() == before
    assert seen == [before, before + 1, before + 2]


def test_a_network_can_be_trained(session, images) -> None:
    heads = session.network(torch.tensor(images[0]))
    sum(head.square().mean() for head in heads).backward()
    assert all(layer.weight.grad is not None for layer in session.network.layers.values())


def test_torch_is_as_it_was_after_a_failure(calibrated) -> None:
    original = torch.Tensor.cuda
    with pytest.raises(BackendError):
        calibrated(activations={"observer": "mse", "bins": 64, "start_bin": 128})
    assert torch.Tensor.cuda is original


def test_the_toolkit_is_silent(calibrated, capfd) -> None:
    calibrated(activations={"observer": "percentile"})
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_ranges(backend, net, planned, images, calibrated) -> None:
    for observer, keys in (("max", {}), ("percentile", {}), ("mse", SEARCH), ("entropy", SEARCH)):
        policy = {"activations": {"observer": observer, **keys}}
        expected = calibrated(**policy)
        with backend.open(net, SessionOptions(device="cuda")) as opened:
            plan = planned(net, **policy)
            found = calibrate(opened, plan, images)
            for name, wanted in expected.items():
                width = 0.02 if keys or observer == "percentile" else 1e-3
                np.testing.assert_allclose(found[name].amax, wanted.amax, rtol=width)
            simulated = opened.simulation(plan, found).infer(images[0])
            assert np.isfinite(simulated["y"]).all()
            assert check_parity(opened, load_engine("onnxruntime")) < 1e-4
