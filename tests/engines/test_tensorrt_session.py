"""The GPU session against CUDA libraries and a TensorRT played in memory: order, shapes, timing."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from quantcore.engines.tensorrt import cuda
from quantcore.engines.tensorrt.cuda_pycuda import PyCuda
from quantcore.engines.tensorrt.cuda_python import CudaPython
from quantcore.errors import EngineError
from quantcore.evaluation.latency import LatencyTest, measure

from .played_cuda import RUN_MS, Driver, Gpu, Runtime


class Plan:
    """Engine and context of a plan that doubles its input: `images` any x 2 x 3, up to 4."""

    num_io_tensors = 2

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.shape, self.addresses = gpu, (-1, 2, 3), {}

    def create_execution_context(self):
        return self

    def get_tensor_name(self, number):
        return ("images", "y")[number]

    def get_tensor_mode(self, name):
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name):
        return name

    def get_tensor_shape(self, name):
        return self.shape

    def get_tensor_profile_shape(self, name, profile):
        return (1, 2, 3), (4, 2, 3), (4, 2, 3)

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        count = int(np.prod(self.shape))

        def work() -> None:
            self.gpu.runs += 1
            kind = ctypes.c_float * count
            data = np.ctypeslib.as_array(kind.from_address(self.addresses["images"]))
            np.ctypeslib.as_array(kind.from_address(self.addresses["y"]))[:] = data * 2

        assert stream == 7
        self.gpu.queue(work, RUN_MS)
        return True


def cuda_python(gpu: Gpu) -> cuda.Driver:
    return CudaPython(Runtime(gpu))


def pycuda(gpu: Gpu) -> cuda.Driver:
    return PyCuda(Driver(gpu))


@pytest.fixture(params=[cuda_python, pycuda])
def played(request, monkeypatch):
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

    def open_(content=b"plan"):
        return session.TensorRtSession(content, driver)

    return SimpleNamespace(
        gpu=gpu, open=open_, driver=driver, ends=ends, graphs=request.param is cuda_python
    )


def _batch(size: int, start: float = 0) -> np.ndarray:
    return np.arange(start, start + size * 6, dtype=np.float32).reshape(size, 2, 3)


@pytest.mark.parametrize("capturable", [True, False])
def test_every_batch_size_gives_its_own_numbers(played, capturable) -> None:
    played.gpu.capturable = capturable
    with played.open() as engine:
        assert engine.runs_on() == "Played (SM89)"
        assert (engine.input_name, engine.output_names) == ("images", ("y",))
        assert engine.input_shape == (None, 2, 3)
        kept = []
        for turn, size in enumerate((1, 4, 1, 3, 4, 1)):
            batch = _batch(size, turn)
            kept.append((engine.infer(batch)["y"], batch * 2))
        for got, want in kept:
            np.testing.assert_array_equal(got, want)
    assert played.gpu.runs == 6
    assert played.gpu.launches == (3 if capturable and played.graphs else 0)


@pytest.mark.parametrize("capturable", [True, False])
def test_events_time_the_network_without_the_copies(played, capturable) -> None:
    played.gpu.capturable = capturable
    with played.open() as engine:
        assert engine.device_seconds(_batch(2)) == pytest.approx(RUN_MS / 1e3)
        before = played.gpu.runs
        found = measure([engine], LatencyTest(batch=_batch(4), warmup=1, runs=5)).result()
        assert found.device_p50_ms == pytest.approx(RUN_MS)
        assert played.gpu.runs - before == 1 + 5 + 5
        assert 0 < found.p50_ms < RUN_MS  # wall time: the played GPU takes none
        with pytest.raises(EngineError, match=r"batch of 5.*up to 4"):
            engine.device_seconds(_batch(5))


def test_everything_is_given_back(played) -> None:
    engine = played.open()
    engine.infer(_batch(2))
    engine.infer(_batch(2))
    engine.close()
    engine.close()
    assert played.gpu.memory == {}
    with pytest.raises(EngineError, match="closed"):
        engine.infer(_batch(1))


def test_a_batch_beyond_the_plan_is_refused(played) -> None:
    with played.open() as engine, pytest.raises(EngineError, match=r"batch of 5.*up to 4"):
        engine.infer(_batch(5))


def test_a_plan_that_does_not_load_is_an_error(played) -> None:
    with pytest.raises(EngineError, match="played 0 cannot run the plan here"):
        played.open(b"other")
    assert played.gpu.memory == {}
