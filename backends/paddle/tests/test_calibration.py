from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import paddle
import pytest
from onnx import helper
from paddle.quantization.imperative import ptq_quantizer

from quantcore.calibration.driver import calibrate
from quantcore.contracts import registry
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.model import ModelOptions
from quantcore.errors import BackendError, CapabilityError, RangeError


def thresholds(ranges, role="activation"):
    return {name: r.amax for name, r in ranges.items() if r.role == role}


@pytest.fixture
def lone(make_model):
    """One convolution that reads the image itself."""
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3, 1, 1)
    node = helper.make_node("Conv", ["images", "w"], ["y"], name="m.conv")
    return make_model([node], {"w": weight}, {"y": ["b", 4, 16, 16]})


def test_max_is_the_absolute_maximum_of_each_tensor(session, model, make_plan, images, engine):
    from quantcore.analysis.agreement import exposed
    from quantcore.contracts.engine import EngineOptions

    ranges = calibrate(session, make_plan(model, observer="max"), [images[:3], images[3:]])
    names = [n for n in thresholds(ranges) if n != "images"]
    with engine.build(exposed(model.proto, names), EngineOptions(exact=True)) as built:
        seen = {**built.infer(images), "images": images}
    for name, amax in thresholds(ranges).items():
        assert amax == pytest.approx(np.abs(seen[name]).max(), rel=1e-5)


def test_weight_ranges_lie_along_the_output_channels(session, model, make_plan, images):
    plan = make_plan(model, observer="max")
    ranges = calibrate(session, plan, [images])
    axes = {site.tensor: site.axis for site in plan.sites if site.role == "weight"}
    assert axes == {"w0": 0, "w1": 0, "w2": 0, "w3": 1, "w4": 0, "w5": 1}
    for name, axis in axes.items():
        weight = np.abs(model.initializers[name])
        other = tuple(i for i in range(weight.ndim) if i != axis)
        assert ranges[name].amax == tuple(weight.max(axis=other).astype(float))


def test_weights_per_tensor(session, model, images):
    from quantcore.policy.policy import CalibrationPolicy
    from quantcore.qdq.placement import plan

    policy = {"activations": {"observer": "max"}, "weights": {"granularity": "per_tensor"}}
    ranges = calibrate(
        session,
        plan(model, CalibrationPolicy.from_dict({"placement": "minimal", **policy})),
        [images],
    )
    for name, amax in thresholds(ranges, "weight").items():
        assert amax == np.abs(model.initializers[name]).max()


def test_a_tensor_is_observed_once_however_many_layers_read_it(
    session, model, make_plan, images, monkeypatch
):
    seen = []
    original = ptq_quantizer.AbsmaxQuantizer.sample_data
    monkeypatch.setattr(
        ptq_quantizer.AbsmaxQuantizer,
        "sample_data",
        lambda self, layer, tensors: (seen.append(1), original(self, layer, tensors))[1],
    )
    plan = make_plan(model, observer="max")
    calibrate(session, plan, [images[:4], images[4:]])
    assert len(seen) == 2 * sum(site.role == "activation" for site in plan.sites)


@pytest.mark.parametrize("observer", ["max", "percentile", "entropy", "moving_average"])
def test_the_same_images_give_the_same_table(backend, model, make_plan, images, observer):
    plan = make_plan(model, observer=observer)
    found = []
    for _ in range(2):
        with backend.open(model, SessionOptions(device="cpu")) as session:
            found.append(calibrate(session, plan, [images[:4], images[4:]]))
    assert found[0] == found[1]


def test_batch_size_does_not_change_max(session, model, make_plan, images):
    plan = make_plan(model, observer="max")
    one_by_one = calibrate(session, plan, [images[i : i + 1] for i in range(len(images))])
    assert one_by_one == calibrate(session, plan, [images])


@pytest.mark.parametrize(("percentile", "bins"), [(99.9, 1024), (90, 512)])
def test_percentiles_are_of_a_hundred_and_end_half_a_bin_early(
    backend, lone, make_plan, images, percentile, bins
):
    plan = make_plan(lone, observer="percentile", percentile=percentile, bins=bins)
    with backend.open(lone, SessionOptions(device="cpu")) as session:
        amax = thresholds(calibrate(session, plan, [images]))["images"]
    counts, edges = np.histogram(images, bins=bins, range=(0, images.max()))
    index = np.argmax(np.cumsum(counts) / counts.sum() >= percentile / 100)
    assert amax == pytest.approx((index - 0.5) * edges[1], rel=1e-6)


def test_entropy_is_paddles_own_search(backend, lone, make_plan, images):
    plan = make_plan(lone, observer="entropy", bins=512)
    with backend.open(lone, SessionOptions(device="cpu")) as session:
        amax = thresholds(calibrate(session, plan, [images]))["images"]
    paddles = ptq_quantizer.KLQuantizer(bins=512)
    paddles.sample_data(None, (paddle.to_tensor(images),))
    paddles.cal_thresholds()
    assert amax == paddles.thresholds[0]
    assert images.max() / 2 <= amax <= images.max() * 1.01


def test_moving_average_forgets_at_the_momentum_and_has_no_initial_bias(
    backend, lone, make_plan, images
):
    plan = make_plan(lone, observer="moving_average", momentum=0.5)
    batches = [images[:2] * np.float32(k) for k in (1, 2, 4)]
    with backend.open(lone, SessionOptions(device="cpu")) as session:
        amax = thresholds(calibrate(session, plan, batches))["images"]
    top = [float(b.max()) for b in batches]
    assert amax == pytest.approx((top[0] / 4 + top[1] / 2 + top[2]) / 1.75, rel=1e-6)


def test_parameters_are_not_shared_between_observers(backend):
    declared = backend.capabilities.activation_observers
    assert "mse" not in declared
    assert declared["entropy"] == {"bins"}  # Paddle's start and stride are fixed


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"observer": "mse"}, "no observer 'mse'; it has entropy, max, moving_average, percentile"),
        ({"observer": "entropy", "stride": 2}, "no parameter 'stride'"),
        ({"observer": "entropy", "bins": 128}, "128 bins; it needs 255 or more"),
        ({"observer": "percentile", "percentile": 100}, "percentiles below 100"),
    ],
)
def test_what_paddle_has_not_is_refused_before_an_image_is_read(
    session, model, make_plan, asked, why
):
    def batches():
        raise AssertionError("an image was read")
        yield

    with pytest.raises(CapabilityError, match=why):
        calibrate(session, make_plan(model, **asked), batches())


@pytest.mark.parametrize("observer", ["max", "percentile", "entropy", "moving_average"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_values_are_named_whatever_follows_them(
    session, model, make_plan, images, observer, bad
):
    broken = images.copy()
    broken[0, 0, 0, 0] = bad
    with pytest.raises(
        RangeError, match=r"activation 'images' of layer model\.0\.conv: NaN or inf"
    ):
        calibrate(session, make_plan(model, observer=observer), [images, broken, images])


def test_an_observer_that_paddle_cannot_finish_is_named(session, model, make_plan, monkeypatch):
    def fail(self):
        raise ValueError("math domain error")

    monkeypatch.setattr(ptq_quantizer.KLQuantizer, "cal_thresholds", fail)
    ones = np.ones((1, 3, 16, 16), np.float32)
    with pytest.raises(BackendError, match=r"'images' of layer model\.0\.conv.*math domain"):
        calibrate(session, make_plan(model, observer="entropy"), [ones])
    assert session.network.activation_quantizers == {}


def test_no_images_is_an_error(session, model, make_plan):
    with pytest.raises(BackendError, match="saw no data"):
        calibrate(session, make_plan(model, observer="max"), [])


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_images(session, model, make_plan, images):
    plan = make_plan(model, observer="percentile")
    calibrate(session, plan, [images] * 20)
    gc.collect()
    before = resident()
    calibrate(session, plan, [images] * 200)
    gc.collect()
    assert resident() <= before * 1.02


@pytest.mark.shared
def test_yolov5n_max_equals_the_float_graphs_absolute_maxima(shared, backend, make_plan, engine):
    from quantcore.analysis.agreement import exposed
    from quantcore.contracts.engine import EngineOptions

    model = registry.load_model("yolov5n").load(
        shared / "weights/yolov5n-coco.pt", ModelOptions(image_size=160)
    )
    batch = np.random.default_rng(0).random((2, 3, 160, 160), dtype=np.float32)
    with backend.open(model, SessionOptions(device="cpu")) as session:
        found = thresholds(calibrate(session, make_plan(model, observer="max"), [batch]))
    names = [n for n in found if n != model.input_name]
    with engine.build(exposed(model.proto, names), EngineOptions(exact=True)) as built:
        seen = built.infer(batch)
    for name in names:
        assert found[name] == pytest.approx(np.abs(seen[name]).max(), rel=1e-4)
