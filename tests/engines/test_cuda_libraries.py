"""The two libraries that drive CUDA: which is taken, what they say, and whether calls fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from quantcore.engines.tensorrt import cuda, cuda_pycuda
from quantcore.engines.tensorrt.cuda_pycuda import PyCuda
from quantcore.engines.tensorrt.cuda_python import CudaPython
from quantcore.errors import EngineError

from .played_cuda import Driver, Gpu, Runtime


def test_cuda_errors_name_the_call() -> None:
    gpu = Gpu()
    gpu.capturable = False
    with pytest.raises(EngineError, match="cudaStreamBeginCapture failed"):
        CudaPython(Runtime(gpu)).call("cudaStreamBeginCapture", 7, 1)


def test_work_that_fails_while_it_is_recorded_leaves_no_capture_open() -> None:
    gpu = Gpu()
    stream = CudaPython(Runtime(gpu)).stream()

    def fail() -> None:
        raise EngineError("no")

    assert stream.record(fail) is None
    assert gpu.recording is None


def test_the_context_of_pycuda_is_taken_off_at_the_end(monkeypatch) -> None:
    ends: list = []
    monkeypatch.setattr(cuda_pycuda.atexit, "register", ends.append)
    library = Driver(Gpu())
    driver = PyCuda(library)
    assert driver.gpu() == driver.gpu() == cuda.Gpu("Played (SM89)")
    driver.buffer(8).free()
    assert library.contexts == ["primary"]
    (end,) = ends
    end()
    assert library.contexts == []


def test_pycuda_without_a_gpu_tells_why() -> None:
    library = Driver(Gpu())

    def init() -> None:
        raise library.Error("cuInit failed: no CUDA-capable device is detected")

    library.init = init
    driver = PyCuda(library)
    assert "no CUDA-capable device" in driver.gpu().reason
    with pytest.raises(EngineError, match="no CUDA-capable device"):
        driver.stream()


@pytest.fixture
def libraries(monkeypatch):
    """Plays which CUDA libraries are installed: those given; others are missing."""

    def play(**found):
        def load(name):
            if name.startswith("quantcore."):
                return real(name)
            key = name.replace(".", "_")
            if key not in found:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
            if isinstance(found[key], Exception):
                raise found[key]
            return found[key]

        real = cuda.importlib.import_module
        monkeypatch.setattr(cuda, "importlib", SimpleNamespace(import_module=load))
        return cuda.driver.__wrapped__()

    return play


def test_cuda_python_is_taken_before_pycuda(libraries) -> None:
    gpu = Gpu()
    both = {"cuda_bindings_runtime": Runtime(gpu), "pycuda_driver": Driver(gpu)}
    assert isinstance(libraries(**both), CudaPython)


def test_the_old_name_of_cuda_python_is_known(libraries) -> None:
    assert isinstance(libraries(cuda_cudart=Runtime(Gpu())), CudaPython)


def test_pycuda_is_taken_where_only_that_is_there(libraries) -> None:
    assert isinstance(libraries(pycuda_driver=Driver(Gpu())), PyCuda)


def test_no_library_is_told_with_the_command(libraries) -> None:
    assert 'pip install "cuda-bindings"' in libraries().reason


def test_a_library_that_does_not_load_is_told(libraries) -> None:
    error = ImportError("libcuda.so.1: cannot open shared object file")
    assert "pycuda.driver does not load: libcuda.so.1" in libraries(pycuda_driver=error).reason


def test_the_real_cuda_python_takes_every_call() -> None:
    """Each function exists, and takes what it is given as far as the missing GPU."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    real = CudaPython(runtime)
    if isinstance(real.gpu(), cuda.Gpu):
        pytest.skip("with a GPU the session's own tests make the calls")
    assert [name for name in Runtime(Gpu()).calls if not hasattr(runtime, name)] == []
    kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    stream, event = runtime.cudaStream_t(7), runtime.cudaEvent_t(8)
    graph, ready = runtime.cudaGraph_t(9), runtime.cudaGraphExec_t(10)
    for name, *arguments in (
        ("cudaMalloc", 8),
        ("cudaMallocHost", 8),
        ("cudaStreamCreate",),
        ("cudaEventCreate",),
        ("cudaEventRecord", event, stream),
        ("cudaEventSynchronize", event),
        ("cudaEventElapsedTime", event, event),
        ("cudaMemcpyAsync", 1, 2, 3, kind, int(stream)),
        ("cudaStreamBeginCapture", stream, mode),
        ("cudaStreamEndCapture", stream),
        ("cudaStreamSynchronize", stream),
        ("cudaGraphInstantiate", graph, 0),
        ("cudaGraphLaunch", ready, stream),
    ):
        with pytest.raises(EngineError, match=f"{name} failed: cudaError"):
            real.call(name, *arguments)
