"""The GPU session against a CUDA and a TensorRT played in memory: order, shapes, recording."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from quantcore.engines.tensorrt import cuda
from quantcore.errors import EngineError


class Cuda:
    """Memory is ordinary memory; what is queued runs at once, or is recorded in a capture."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self) -> None:
        self.memory: dict[int, object] = {}
        self.recording: list | None = None
        self.launches = self.runs = 0
        self.capturable = True

    def queue(self, work) -> tuple[int]:
        if self.recording is not None:
            self.recording.append(work)
        else:
            work()
        return (0,)

    def __getattr__(self, name: str):
        calls = {
            "cudaMalloc": self._allocate,
            "cudaMallocHost": self._allocate,
            "cudaFree": lambda address: (0, self.memory.pop(address)),
            "cudaFreeHost": lambda address: (0, self.memory.pop(address)),
            "cudaStreamCreate": lambda: (0, 7),
            "cudaStreamDestroy": lambda stream: (0,),
            "cudaStreamSynchronize": lambda stream: (0,),
            "cudaMemcpyAsync": lambda to, source, size, kind, stream: self.queue(
                lambda: ctypes.memmove(to, source, size)
            ),
            "cudaStreamBeginCapture": self._begin,
            "cudaStreamEndCapture": self._end,
            "cudaGraphInstantiate": lambda graph, flags: (0, graph),
            "cudaGraphDestroy": lambda graph: (0,),
            "cudaGraphExecDestroy": lambda graph: (0,),
            "cudaGraphLaunch": self._launch,
        }
        return calls[name]

    def _allocate(self, size):
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def _begin(self, stream, mode):
        if not self.capturable:
            return (9,)
        self.recording = []
        return (0,)

    def _end(self, stream):
        recorded, self.recording = self.recording, None
        return 0, recorded

    def _launch(self, graph, stream):
        self.launches += 1
        for work in graph:
            work()
        return (0,)


class Plan:
    """Engine and context of a plan that doubles its input: `images` any x 2 x 3, up to 4."""

    num_io_tensors = 2

    def __init__(self, played: Cuda) -> None:
        self.cuda, self.shape, self.addresses = played, (-1, 2, 3), {}

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
            self.cuda.runs += 1
            kind = ctypes.c_float * count
            data = np.ctypeslib.as_array(kind.from_address(self.addresses["images"]))
            np.ctypeslib.as_array(kind.from_address(self.addresses["y"]))[:] = data * 2

        self.cuda.queue(work)
        return True


@pytest.fixture
def played(monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    from quantcore.engines.tensorrt import session

    runtime = Cuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: runtime)
    plan = Plan(runtime)
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
    return SimpleNamespace(cuda=runtime, open=lambda content=b"plan": session.Session(content))


def _batch(size: int, start: float = 0) -> np.ndarray:
    return np.arange(start, start + size * 6, dtype=np.float32).reshape(size, 2, 3)


@pytest.mark.parametrize("capturable", [True, False])
def test_every_batch_size_gives_its_own_numbers(played, capturable) -> None:
    played.cuda.capturable = capturable
    with played.open() as engine:
        assert (engine.input_name, engine.output_names) == ("images", ("y",))
        assert engine.input_shape == (None, 2, 3)
        kept = []
        for turn, size in enumerate((1, 4, 1, 3, 4, 1)):
            batch = _batch(size, turn)
            kept.append((engine.infer(batch)["y"], batch * 2))
        for got, want in kept:
            np.testing.assert_array_equal(got, want)
    assert played.cuda.runs == 6
    assert played.cuda.launches == (3 if capturable else 0)


def test_everything_is_given_back(played) -> None:
    engine = played.open()
    engine.infer(_batch(2))
    engine.infer(_batch(2))
    engine.close()
    engine.close()
    assert played.cuda.memory == {}
    with pytest.raises(EngineError, match="closed"):
        engine.infer(_batch(1))


def test_a_batch_beyond_the_plan_is_refused(played) -> None:
    with played.open() as engine, pytest.raises(EngineError, match=r"batch of 5.*up to 4"):
        engine.infer(_batch(5))


def test_a_plan_that_does_not_load_is_an_error(played) -> None:
    with pytest.raises(EngineError, match="played 0 cannot run the plan here"):
        played.open(b"other")
    assert played.cuda.memory == {}


def test_cuda_errors_name_the_call(played) -> None:
    played.cuda.capturable = False
    with pytest.raises(EngineError, match="cudaStreamBeginCapture failed"):
        cuda.call("cudaStreamBeginCapture", 7, 1)
