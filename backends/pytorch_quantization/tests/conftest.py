"""What this backend's tests share: tiny graphs, and the toolkit fed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_backend, load_engine
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.executors import local
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel, Preprocessing
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, plan
from quantcore.runtime.executor import InProcess

pytest.importorskip("pytorch_quantization")


@pytest.fixture(scope="module")
def in_process() -> Iterator[None]:
    """Trainings run here: to start a process takes longer than what these tests let it do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "LocalExecutor", lambda *_: InProcess())
        yield


SHARED = Path(__file__).resolve().parents[4] / "shared"


def _build(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    shape: Sequence[int] = (3, 12, 10),
    opset: int = 17,
) -> FloatModel:
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True)
    size = (shape[1], shape[2]) if len(shape) == 3 else (1, 1)
    return FloatModel("tiny", proto, Preprocessing(size), DecodedBoxes(), ("a",))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, and lose much where others use the cores too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def build() -> Callable[..., FloatModel]:
    """Makes a FloatModel of nodes and constants; the input is `images`."""
    return _build


@pytest.fixture(scope="session")
def backend() -> Any:
    """The plugin, as the registry gives it."""
    return load_backend("pytorch-quantization")


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[str, Array]]:
    """Runs a graph in ONNX Runtime."""

    def call(proto: onnx.ModelProto, images: Array) -> dict[str, Array]:
        options = EngineOptions(threads=1, exact=True)
        with load_engine("onnxruntime").build(proto, options) as engine:
            return engine.infer(images)

    return call


@pytest.fixture(scope="session")
def planned() -> Callable[..., Plan]:
    """The plan of a model under a policy given as YAML keys."""

    def make(model: FloatModel, **policy: Any) -> Plan:
        return plan(model, CalibrationPolicy.from_dict({"placement": "minimal", **policy}))

    return make


@pytest.fixture(scope="session")
def net() -> FloatModel:
    """Every layer with weights; a tensor that three layers read; an Add, a Concat and a pool."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        # Each output channel has a range of its own.
        return (rng.standard_normal(shape) * rng.uniform(0.05, 0.6, shape)).astype(np.float32)

    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w0", "b0"], ["t0"], "m.0.conv", pads=[1] * 4, strides=[2, 2]),
        node("LeakyRelu", ["t0"], ["t1"], "m.0.act", alpha=0.1),
        node("Conv", ["t1", "w1"], ["t2"], "m.1.conv"),
        node("Conv", ["t1", "w2", "b2"], ["t3"], "m.2.conv"),
        node("ConvTranspose", ["t3", "w3"], ["t4"], "m.3.up", strides=[2, 2]),
        node("Add", ["t1", "t2"], ["t5"], "m.4.add"),
        node("MaxPool", ["t5"], ["t6"], "m.5.pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["t6", "t6"], ["t7"], "m.6.cat", axis=1),
        node("GlobalAveragePool", ["t7"], ["t8"], "m.7.gap"),
        node("Flatten", ["t8"], ["t9"], "m.8.flat"),
        node("Gemm", ["t9", "w4", "b4"], ["t10"], "m.9.fc", transB=1),
        node("Gemm", ["t10", "w5"], ["y"], "m.10.fc", transB=1),
    ]
    constants = {
        "w0": weight(8, 3, 3, 3),
        "b0": weight(8),
        "w1": weight(8, 8, 1, 1),
        "w2": weight(6, 8, 1, 1),
        "b2": weight(6),
        "w3": weight(6, 5, 2, 2),
        "w4": weight(7, 16),
        "b4": weight(7),
        "w5": weight(4, 7),
    }
    return _build(nodes, constants, ("t4", "y"), (3, 16, 16))


@pytest.fixture
def images() -> list[Array]:
    """Three batches, each larger than the last."""
    rng = np.random.default_rng(1)
    return [rng.random((2, 3, 16, 16), dtype=np.float32) * f for f in (0.5, 1.0, 1.25)]


@pytest.fixture(scope="session")
def tensors() -> Callable[..., dict[str, list[Array]]]:
    """What ONNX Runtime computes for some tensors, batch by batch, in one session."""

    def collect(model: FloatModel, names: Sequence[str], batches: Sequence[Array]) -> Any:
        proto = exposed(model.proto, names)
        found: dict[str, list[Array]] = {name: [] for name in names}
        with load_engine("onnxruntime").build(
            proto, EngineOptions(threads=1, exact=True)
        ) as engine:
            for batch in batches:
                values = {**engine.infer(batch), model.input_name: batch}
                for name in names:
                    found[name].append(values[name])
        return found

    return collect


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and images; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real checkpoints and images)")
    return SHARED
