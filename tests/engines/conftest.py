"""Graphs for the engines: the shared small net and one with a Concat, float and Q/DQ."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from quantcore.engines.tensorrt import cuda
from quantcore.engines.tensorrt.cuda_pycuda import PyCuda
from quantcore.engines.tensorrt.cuda_python import CudaPython
from quantcore.qdq.insertion import insert

from .played_cuda import Driver, Gpu, Plan, Runtime


def _conv(name: str, data: str, out: str, bias: bool = True) -> onnx.NodeProto:
    inputs = [data, f"{name}.weight", *([f"{name}.bias"] if bias else [])]
    return helper.make_node("Conv", inputs, [out], name)


@pytest.fixture(scope="session")
def joined(build) -> object:
    """Two branches with SiLU, joined by a Concat that a convolution reads; signed everywhere."""
    rng = np.random.default_rng(1)
    node = helper.make_node
    nodes = []
    for name in ("left", "right"):
        nodes += [
            _conv(name, "images", f"{name}.out"),
            node("Sigmoid", [f"{name}.out"], [f"{name}.sig"], f"{name}.act.sigmoid"),
            node("Mul", [f"{name}.out", f"{name}.sig"], [f"{name}.act"], f"{name}.act.mul"),
        ]
    nodes += [node("Concat", ["left.act", "right.act"], ["cat"], "cat", axis=1)]
    nodes += [_conv("last", "cat", "y")]
    constants = {}
    for name, out, inside in (("left", 16, 3), ("right", 16, 3), ("last", 8, 32)):
        constants[f"{name}.weight"] = rng.normal(0, 0.5, (out, inside, 1, 1)).astype(np.float32)
        constants[f"{name}.bias"] = rng.normal(0, 0.1, out).astype(np.float32)
    return build(nodes, constants)


@pytest.fixture(scope="session")
def chain(build) -> object:
    """Two convolutions without bias, one right behind the other."""
    rng = np.random.default_rng(2)
    nodes = [_conv("first", "images", "t", bias=False), _conv("second", "t", "y", bias=False)]
    return build(
        nodes,
        {
            "first.weight": rng.normal(0, 0.5, (16, 3, 1, 1)).astype(np.float32),
            "second.weight": rng.normal(0, 0.5, (8, 16, 1, 1)).astype(np.float32),
        },
    )


@pytest.fixture(scope="session")
def qdq(planned, table) -> Callable[..., onnx.ModelProto]:
    """The Q/DQ graph of a model under a policy given as YAML keys."""

    def make(model, **policy) -> onnx.ModelProto:
        sites = planned(model, **policy)
        return insert(model, sites, table(model, sites)).proto

    return make


@pytest.fixture
def pictures() -> np.ndarray:
    """Three images."""
    return np.random.default_rng(3).random((3, 3, 16, 16), dtype=np.float32)


@pytest.fixture
def precisions() -> Callable[..., dict[str, str | None]]:
    """What an engine runs each weighted node in, by node name."""

    def find(engine, proto) -> dict[str, str | None]:
        wanted = {n.name for n in proto.graph.node if n.op_type in ("Conv", "ConvTranspose")}
        layers = {layer.name: layer.precision for layer in engine.layers()}
        return {name: layers.get(name, "missing") for name in sorted(wanted)}

    return find


@pytest.fixture
def sqnr() -> Callable[..., float]:
    """Signal to noise in dB."""

    def compute(want: np.ndarray, got: np.ndarray) -> float:
        noise = float(((want - got) ** 2).sum())
        return float("inf") if noise == 0 else 10 * np.log10(float((want**2).sum()) / noise)

    return compute


@pytest.fixture
def by_hand() -> SimpleNamespace:
    """Helpers for graphs that quantcore itself would not write."""

    def rename(proto: onnx.ModelProto, node: str, op: str) -> onnx.ModelProto:
        changed = onnx.ModelProto.FromString(proto.SerializeToString())
        next(n for n in changed.graph.node if n.name == node).op_type = op
        return changed

    def wider(proto: onnx.ModelProto, tensor: str, values: np.ndarray) -> onnx.ModelProto:
        changed = onnx.ModelProto.FromString(proto.SerializeToString())
        held = next(i for i in changed.graph.initializer if i.name == tensor)
        held.CopyFrom(numpy_helper.from_array(values, tensor))
        return changed

    return SimpleNamespace(rename=rename, wider=wider)


def _cuda_python(gpu: Gpu) -> cuda.Driver:
    return CudaPython(Runtime(gpu))


def _pycuda(gpu: Gpu) -> cuda.Driver:
    return PyCuda(Driver(gpu))


@pytest.fixture(params=[_cuda_python, _pycuda])
def played(request, monkeypatch):
    """A GPU, a CUDA library and a TensorRT, all played; `open()` gives a session."""
    pytest.importorskip("tensorrt_rtx")
    from quantcore.engines.tensorrt import cuda_pycuda, session

    ends: list = []
    monkeypatch.setattr(cuda_pycuda.atexit, "register", ends.append)
    gpu = Gpu()
    plan = Plan(gpu)
    trt = SimpleNamespace(
        __name__="played",
        __version__="0",
        Runtime=lambda logger: SimpleNamespace(
            deserialize_cuda_engine=lambda content: plan if content == b"plan" else None
        ),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=lambda kind: np.float32,
    )
    monkeypatch.setattr(session, "trt", trt)
    driver = request.param(gpu)

    def open_(content=b"plan", recorded=True):
        return session.TensorRtSession(content, driver, recorded)

    return SimpleNamespace(
        gpu=gpu, open=open_, driver=driver, ends=ends, graphs=request.param is _cuda_python
    )
