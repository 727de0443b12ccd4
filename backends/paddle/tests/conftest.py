from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin, BackendSession, SessionOptions
from quantcore.contracts.engine import EnginePlugin
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.ir.model import FloatModel, Preprocessing
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, plan

pytest.importorskip("paddle", reason="the backend needs paddlepaddle")

SHARED = Path(__file__).parents[4] / "shared"
SIDE = 16


def float_model(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    heads: dict[str, Sequence[int | str] | None],
    side: int = SIDE,
) -> FloatModel:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["b", 3, side, side])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in heads.items()],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    proto = onnx.shape_inference.infer_shapes(proto)
    return FloatModel("small", proto, Preprocessing((side, side)), DecodedBoxes(), ("a",))


def small_model() -> FloatModel:
    """Every layer that Paddle's tables know: two branches, an up-sampling, a classifier."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    node = helper.make_node
    constants = {
        "w0": weight(8, 3, 3, 3),
        "b0": weight(8),
        "w1": weight(8, 8, 1, 1),
        "w2": weight(8, 4, 3, 3),
        "w3": weight(8, 6, 2, 2),
        "b3": weight(6),
        "w4": weight(5, 8),
        "b4": weight(5),
        "w5": weight(5, 7),
        "up": np.array([1, 1, 2, 2], dtype=np.float32),
    }
    nodes = [
        node("Conv", ["images", "w0", "b0"], ["t0"], name="model.0.conv", pads=[1, 0, 1, 1]),
        node("Sigmoid", ["t0"], ["g0"], name="model.0.act.sigmoid"),
        node("Mul", ["t0", "g0"], ["t1"], name="model.0.act.mul"),
        node("MaxPool", ["t1"], ["t2"], name="model.1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["t2", "w1"], ["t3"], name="model.2.cv1"),
        node("Conv", ["t2", "w2"], ["t4"], name="model.2.cv2", pads=[1] * 4, group=2),
        node("Add", ["t3", "t4"], ["t5"], name="model.2.add"),
        node("ConvTranspose", ["t5", "w3", "b3"], ["t6"], name="model.3.up", strides=[2, 2]),
        node(
            "Resize",
            ["t5", "", "up"],
            ["t7"],
            name="model.4",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("Concat", ["t6", "t7"], ["y"], name="model.5", axis=1),
        node("GlobalAveragePool", ["t5"], ["t8"], name="model.6.pool"),
        node("Flatten", ["t8"], ["t9"], name="model.6.flat"),
        node("Gemm", ["t9", "w4", "b4"], ["t10"], name="model.6.fc", transB=1),
        node("MatMul", ["t10", "w5"], ["z"], name="model.6.out"),
    ]
    size = SIDE - SIDE % 2
    return float_model(nodes, constants, {"y": ["b", 14, size, size - 2], "z": ["b", 7]})


def plan_for(model: FloatModel, **activations: object) -> Plan:
    return plan(
        model, CalibrationPolicy.from_dict({"placement": "minimal", "activations": activations})
    )


@pytest.fixture(scope="session")
def model() -> FloatModel:
    return small_model()


@pytest.fixture
def make_model() -> Callable[..., FloatModel]:
    return float_model


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    return plan_for


@pytest.fixture(scope="session")
def backend() -> BackendPlugin:
    return registry.load_backend("paddle")


@pytest.fixture(scope="session")
def engine() -> EnginePlugin:
    return registry.load_engine("onnxruntime")


@pytest.fixture
def session(backend: BackendPlugin, model: FloatModel):
    with backend.open(model, SessionOptions(device="cpu")) as opened:
        assert isinstance(opened, BackendSession)
        yield opened


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(1).random((8, 3, SIDE, SIDE), dtype=np.float32)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, the real checkpoints and images")
    return SHARED
