"""A GPU played in memory, and the two libraries that drive it, as far as they are used."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np

RUN_MS = 3.0
COPY_MS = 100.0


class Gpu:
    """Memory is ordinary memory; what is queued runs at once, or is recorded in a capture.

    Its clock advances by RUN_MS with each run of the network, and by COPY_MS with each copy.
    """

    def __init__(self) -> None:
        self.memory: dict[int, object] = {}
        self.recording: list | None = None
        self.clock = 0.0
        self.launches = self.runs = 0
        self.capturable = True

    def queue(self, work, ms: float = 0.0) -> None:
        def timed() -> None:
            self.clock += ms
            work()

        if self.recording is not None:
            self.recording.append(timed)
        else:
            timed()

    def allocate(self, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def copy(self, to: int, source: int, size: int) -> None:
        self.queue(lambda: ctypes.memmove(to, source, size), COPY_MS)


class Runtime:
    """`cuda.bindings.runtime`, as far as it is used."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.calls = {
            "cudaGetDeviceCount": lambda: (0, 1),
            "cudaGetDeviceProperties": lambda number: (
                0,
                SimpleNamespace(name=b"Played", major=8, minor=9),
            ),
            "cudaMalloc": lambda size: (0, gpu.allocate(size)),
            "cudaMallocHost": lambda size: (0, gpu.allocate(size)),
            "cudaFree": lambda address: (0, gpu.memory.pop(address)),
            "cudaFreeHost": lambda address: (0, gpu.memory.pop(address)),
            "cudaStreamCreate": lambda: (0, 7),
            "cudaStreamDestroy": lambda stream: (0,),
            "cudaStreamSynchronize": lambda stream: (0,),
            "cudaEventCreate": lambda: (0, []),
            "cudaEventDestroy": lambda event: (0,),
            "cudaEventRecord": self._event,
            "cudaEventSynchronize": lambda event: (0,),
            "cudaEventElapsedTime": lambda begin, end: (0, end[-1] - begin[-1]),
            "cudaMemcpyAsync": self._copy,
            "cudaStreamBeginCapture": self._begin,
            "cudaStreamEndCapture": self._end,
            "cudaGraphInstantiate": lambda graph, flags: (0, graph),
            "cudaGraphDestroy": lambda graph: (0,),
            "cudaGraphExecDestroy": lambda graph: (0,),
            "cudaGraphLaunch": self._launch,
        }

    def __getattr__(self, name: str):
        return self.calls[name]

    def _copy(self, to, source, size, kind, stream):
        self.gpu.copy(to, source, size)
        return (0,)

    def _event(self, event, stream):
        self.gpu.queue(lambda: event.append(self.gpu.clock))
        return (0,)

    def _begin(self, stream, mode):
        if not self.gpu.capturable:
            return (9,)
        self.gpu.recording = []
        return (0,)

    def _end(self, stream):
        recorded, self.gpu.recording = self.gpu.recording, None
        return 0, recorded

    def _launch(self, graph, stream):
        self.gpu.launches += 1
        for work in graph:
            work()
        return (0,)


class Driver:
    """`pycuda.driver`, as far as it is used; every call needs a current context."""

    class Error(Exception):
        """As pycuda has it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.contexts: list[str] = []
        context = SimpleNamespace(
            push=lambda: self.contexts.append("primary"), pop=lambda: self.contexts.pop()
        )
        device = SimpleNamespace(
            name=lambda: "Played",
            compute_capability=lambda: (8, 9),
            retain_primary_context=lambda: context,
        )

        class Device:
            @staticmethod
            def count() -> int:
                return 1

            def __new__(cls, number):
                return device

        self.Device = Device

    def init(self) -> None:
        pass

    def _current(self) -> None:
        if not self.contexts:
            raise self.Error("cuSomething failed: invalid device context")

    def mem_alloc(self, size):
        self._current()
        address = self.gpu.allocate(size)

        class Allocation:
            def __int__(self) -> int:
                return address

            def free(_self) -> None:  # noqa: N805
                self.gpu.memory.pop(address)

        return Allocation()

    def pagelocked_empty(self, shape, dtype):
        self._current()
        return np.empty(shape, dtype)

    def memcpy_htod_async(self, to, source, stream):
        self.gpu.copy(to, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, to, source, stream):
        self.gpu.copy(to.ctypes.data, source, to.nbytes)

    def Stream(self):  # noqa: N802
        self._current()
        return SimpleNamespace(handle=7, synchronize=lambda: None)

    def Event(self):  # noqa: N802
        self._current()
        event = SimpleNamespace(at=0.0, synchronize=lambda: None)

        def record(stream) -> None:
            event.at = self.gpu.clock

        event.record = record
        event.time_since = lambda begin: event.at - begin.at
        return event


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
