from __future__ import annotations

import numpy as np
import paddle
import pytest
from onnx import helper

from quantcore.analysis.agreement import check_parity
from quantcore.calibration.driver import calibrate
from quantcore.commands.options import load_model
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.engine import EngineOptions
from quantcore.errors import BackendError, CapabilityError

SIDE = 16
FLOAT64 = SessionOptions(device="cpu", arithmetic="float64")


def test_the_network_agrees_with_the_float_graph(session, engine):
    assert check_parity(session, engine) <= 1e-5


def test_layers_are_paddle_classes_under_their_own_names(session, model):
    names = dict(session.network.named_sublayers())
    for layer in model.layers:
        if layer.weights:
            assert type(names[layer.name]).__module__.startswith("paddle.nn.layer")
    assert isinstance(names["model.0.conv"], paddle.nn.Conv2D)
    assert isinstance(names["model.3.up"], paddle.nn.Conv2DTranspose)
    assert isinstance(names["model.6.fc"], paddle.nn.Linear)


def test_parameter_names_are_structured_and_touch_no_process_state(backend, model):
    counter = paddle.utils.unique_name.generate("conv2d")
    paddle.seed(7)
    drawn = paddle.rand([4]).numpy()
    paddle.seed(7)
    for _ in range(2):
        with backend.open(model, SessionOptions(device="cpu")) as session:
            for name, parameter in session.network.named_parameters():
                assert parameter.name == name
    assert np.array_equal(paddle.rand([4]).numpy(), drawn)
    after = paddle.utils.unique_name.generate("conv2d")
    assert int(after.rpartition("_")[2]) == int(counter.rpartition("_")[2]) + 1


def test_the_float_model_is_left_as_it_is(backend, model, make_plan, images):
    before = model.proto.SerializeToString()
    with backend.open(model, SessionOptions(device="cpu")) as session:
        plan = make_plan(model, observer="max")
        session.simulation(plan, calibrate(session, plan, [images])).infer(images)
    assert model.proto.SerializeToString() == before


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


HALF = np.float32(0.5)
RESIZE = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}
#: op -> (attributes, constants behind the image, number of outputs)
OPS = {
    "Add": ({}, [floats(0.25)], 1),
    "AveragePool": ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, [], 1),
    "AveragePool padded": (
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        [],
        1,
    ),
    "Clip": ({}, [np.array(0.2, np.float32), np.array(0.7, np.float32)], 1),
    "Clip low": ({}, [np.array(0.2, np.float32)], 1),
    "Concat": ({"axis": 1}, [], 1),
    "Div": ({}, [floats(3)], 1),
    "Exp": ({}, [], 1),
    "Flatten": ({}, [], 1),
    "GlobalAveragePool": ({}, [], 1),
    "HardSigmoid": ({"alpha": 0.3, "beta": 0.4}, [], 1),
    "HardSwish": ({}, [], 1),
    "Identity": ({}, [], 1),
    "LeakyRelu": ({"alpha": 0.1}, [], 1),
    "MaxPool": ({"kernel_shape": [3, 3], "pads": [1, 0, 1, 1], "strides": [2, 2]}, [], 1),
    "MaxPool ceil": ({"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, [], 1),
    "Mul": ({}, [floats(3)], 1),
    "Pow": ({}, [floats(2)], 1),
    "Relu": ({}, [], 1),
    "Reshape": ({}, [ints(0, 3, -1)], 1),
    "Resize twice": (RESIZE, [floats(), floats(1, 1, 2, 2)], 1),
    "Resize thrice": (RESIZE, [floats(), floats(1, 1, 3, 5)], 1),
    "Resize by a fraction": (RESIZE, [floats(), floats(1, 1, 1.3, 0.4)], 1),
    "Sigmoid": ({}, [], 1),
    "Slice": ({}, [ints(1, 0), ints(2**62, -1), ints(2, 3), ints(2, 1)], 1),
    "Slice plain": ({}, [ints(0, 1), ints(9, 3)], 1),
    "Softmax": ({"axis": 1}, [], 1),
    "Split": ({"axis": 1}, [ints(1, 2)], 2),
    "Split even": ({"axis": 2}, [], 2),
    "Sub": ({}, [floats(0.5)], 1),
    "Tanh": ({}, [], 1),
    "Transpose": ({"perm": [0, 2, 3, 1]}, [], 1),
    "Transpose reversed": ({"perm": [0, 3, 2, 1]}, [], 1),
}


def one_node(make_model, op, attributes, constants, outputs=1):
    names = [f"c{i}" for i in range(len(constants))]
    inputs = ["images", "images"] if op == "Concat" else ["images", *names]
    heads = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, inputs, heads, name="m.node", **attributes)
    return make_model([node], dict(zip(names, constants, strict=True)), dict.fromkeys(heads))


@pytest.mark.parametrize("case", OPS)
def test_every_function_agrees_with_onnx_runtime(backend, engine, make_model, images, case):
    attributes, constants, outputs = OPS[case]
    model = one_node(make_model, case.split()[0], attributes, constants, outputs)
    batch = images[:2] - HALF
    with (
        engine.build(model.proto, EngineOptions()) as built,
        backend.open(model, SessionOptions(device="cpu")) as session,
    ):
        expected, found = built.infer(batch), session.forward(batch)
    with backend.open(model, FLOAT64) as session:
        double = session._forward(batch)
    for (name, reference), wide in zip(expected.items(), double, strict=True):
        assert found[name].shape == reference.shape
        np.testing.assert_allclose(found[name], reference, rtol=1e-5, atol=1e-6)
        assert wide.dtype == np.float64
        np.testing.assert_allclose(wide, reference, rtol=1e-5, atol=1e-6)


WEIGHT = np.random.default_rng(2).standard_normal((6, 3, 3, 3)).astype(np.float32)
LAYERS = {
    "Conv strided": ("Conv", {"strides": [2, 1], "pads": [1, 2, 0, 1]}, [WEIGHT]),
    "Conv dilated": ("Conv", {"dilations": [2, 2]}, [WEIGHT, WEIGHT[:, 0, 0, 0]]),
    "Conv depthwise": ("Conv", {"group": 3}, [np.ascontiguousarray(WEIGHT[:3, :1])]),
    "ConvTranspose": (
        "ConvTranspose",
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        [np.ascontiguousarray(WEIGHT[:3]), floats(1, 2, 3)],
    ),
    "ConvTranspose lopsided": (
        "ConvTranspose",
        {"strides": [2, 2], "pads": [0, 1, 1, 1]},
        [np.ascontiguousarray(WEIGHT[:3])],
    ),
    "ConvTranspose grouped": ("ConvTranspose", {"group": 3}, [WEIGHT[:3]]),
    "MatMul": ("MatMul", {}, [np.ascontiguousarray(WEIGHT.reshape(-1)[:80].reshape(16, 5))]),
}


@pytest.mark.parametrize("case", LAYERS)
def test_every_layer_agrees_with_onnx_runtime(backend, engine, make_model, images, case):
    model = one_node(make_model, *LAYERS[case])
    with (
        engine.build(model.proto, EngineOptions()) as built,
        backend.open(model, SessionOptions(device="cpu")) as session,
    ):
        expected, found = built.infer(images[:2]), session.forward(images[:2])
    with backend.open(model, FLOAT64) as session:
        (wide,) = session._forward(images[:2])
    np.testing.assert_allclose(found["y0"], expected["y0"], rtol=1e-5, atol=1e-5)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, expected["y0"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "attributes", "constants", "why"),
    [
        ("Selu", {}, [], "knows no Selu"),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1]}, [], "equal padding"),
        ("MaxPool", {"kernel_shape": [3, 3], "dilations": [2, 2]}, [], "no dilation"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, [WEIGHT], "auto_pad"),
        ("ConvTranspose", {"output_shape": [18, 18]}, [WEIGHT[:3]], "output_shape"),
        ("Slice", {}, [ints(-1), ints(0), ints(2), ints(-1)], "negative steps"),
    ],
)
def test_what_cannot_be_materialised_is_refused_by_name(
    backend, make_model, op, attributes, constants, why
):
    model = one_node(make_model, op, attributes, constants)
    with pytest.raises(BackendError, match=rf"'m\.node'.*{why}"):
        backend.open(model, SessionOptions(device="cpu"))


def test_a_failure_of_paddle_names_the_layer(session, monkeypatch):
    layer = session.network.layers["model.2.cv1"]

    def fail(x):
        raise RuntimeError("page\nof\nInvalidArgumentError: no such kernel\ntrace")

    monkeypatch.setattr(layer, "forward", fail)
    with pytest.raises(BackendError, match=r"'model\.2\.cv1' \(Conv\).*no such kernel") as caught:
        session.forward(np.zeros((1, 3, SIDE, SIDE), np.float32))
    assert "\n" not in str(caught.value)


def test_an_unknown_device_is_refused(backend, model):
    with pytest.raises(CapabilityError, match="no device 'tpu' here; it has: cpu"):
        backend.open(model, SessionOptions(device="tpu"))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "weights", "preset"),
    [
        ("yolov5n", "weights/yolov5n-coco.pt", None),
        ("yolov7-tiny", "reference/yolov7-tiny.pt", None),
        ("yolov7", "reference/yolov7-w025.pt", None),
        ("onnx", "weights/yolox_nano.onnx", "yolox"),
    ],
)
def test_real_networks_agree_with_their_float_graphs(
    shared, backend, engine, name, weights, preset
):
    loaded = load_model(name, shared / weights, preset=preset)
    with backend.open(loaded, SessionOptions(device="cpu")) as session:
        assert check_parity(session, engine) <= 1e-4
