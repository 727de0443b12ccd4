"""CUDA through cuda-python (`cuda.bindings.runtime`): its calls answer an error code and values."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import numpy as np

from quantcore.engines.tensorrt.cuda import Buffer, Driver, Gpu, Graph, NoGpu, Queue, Stream
from quantcore.errors import EngineError


class CudaPython(Driver):
    """The CUDA runtime.

    Args:
        runtime: The module `cuda.bindings.runtime`.
    """

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls the CUDA runtime and unpacks its answer.

        Raises:
            EngineError: CUDA failed.
        """
        error, *values = getattr(self.runtime, name)(*arguments)
        if error != self.runtime.cudaError_t.cudaSuccess:
            raise EngineError(f"CUDA: {name} failed: {getattr(error, 'name', error)}")
        return values[0] if len(values) == 1 else tuple(values) or None

    def gpu(self) -> Gpu | NoGpu:
        """See Driver."""
        try:
            count = self.call("cudaGetDeviceCount")
        except EngineError as error:
            return NoGpu(f"there is no usable GPU ({error})")
        if not count:
            return NoGpu("there is no GPU")
        try:
            facts = self.call("cudaGetDeviceProperties", 0)
        except EngineError as error:
            return NoGpu(f"the GPU does not answer ({error})")
        name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
        return Gpu(f"{name} (SM{facts.major}{facts.minor})")

    def buffer(self, size: int) -> Buffer:
        """See Driver."""
        return _Buffer(self, size)

    def stream(self) -> Stream:
        """See Driver."""
        return _Stream(self)


class _Buffer(Buffer):
    """Two addresses."""

    def __init__(self, cuda: CudaPython, size: int) -> None:
        self._cuda = cuda
        self._pinned = 0
        size = max(size, 1)
        self.device = int(cuda.call("cudaMalloc", size))
        try:
            self._pinned = int(cuda.call("cudaMallocHost", size))
        except EngineError:
            self.free()
            raise
        self.here = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(self._pinned))

    def upload(self, count: int, stream: Stream) -> None:
        """See Buffer."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._cuda.call("cudaMemcpyAsync", self.device, self._pinned, count, kind, stream.handle)

    def download(self, count: int, stream: Stream) -> None:
        """See Buffer."""
        kind = self._cuda.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._cuda.call("cudaMemcpyAsync", self._pinned, self.device, count, kind, stream.handle)

    def free(self) -> None:
        """See Buffer."""
        if self._pinned:
            self._cuda.call("cudaFreeHost", self._pinned)
        if self.device:
            self._cuda.call("cudaFree", self.device)
        self._pinned = self.device = 0


class _Stream(Stream):
    """A stream and its events."""

    def __init__(self, cuda: CudaPython) -> None:
        self._cuda = cuda
        self._events: list[Any] = []
        # Kept as the library gave it; TensorRT and the calls here take the number in it.
        self._stream: Any = cuda.call("cudaStreamCreate")
        self.handle = int(self._stream)
        try:
            self._events = [cuda.call("cudaEventCreate") for _ in range(2)]
        except EngineError:
            self.close()
            raise

    def synchronize(self) -> None:
        """See Stream."""
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def milliseconds(self, queue: Queue) -> float:
        """See Stream."""
        begin, end = self._events
        self._cuda.call("cudaEventRecord", begin, self._stream)
        queue()
        self._cuda.call("cudaEventRecord", end, self._stream)
        self._cuda.call("cudaEventSynchronize", end)
        return float(self._cuda.call("cudaEventElapsedTime", begin, end))

    def record(self, queue: Queue) -> Graph | None:
        """See Stream."""
        modes = self._cuda.runtime.cudaStreamCaptureMode
        try:
            return _Graph(self._cuda, self._stream, queue, modes.cudaStreamCaptureModeThreadLocal)
        except EngineError:
            return None  # some plans cannot be recorded; they run as they are

    def close(self) -> None:
        """See Stream."""
        for event in self._events:
            self._cuda.call("cudaEventDestroy", event)
        if self._stream is not None:
            self._cuda.call("cudaStreamDestroy", self._stream)
        self._events, self._stream = [], None


class _Graph(Graph):
    """An instantiated graph."""

    def __init__(self, cuda: CudaPython, stream: Any, queue: Queue, mode: Any) -> None:
        self._cuda = cuda
        self._stream = stream
        cuda.call("cudaStreamBeginCapture", stream, mode)
        try:
            queue()
        except EngineError:
            # A stream left in capture refuses everything else.
            with contextlib.suppress(EngineError):
                cuda.call("cudaGraphDestroy", cuda.call("cudaStreamEndCapture", stream))
            raise
        graph = cuda.call("cudaStreamEndCapture", stream)
        try:
            self._graph = cuda.call("cudaGraphInstantiate", graph, 0)
        finally:
            cuda.call("cudaGraphDestroy", graph)

    def launch(self) -> None:
        """See Graph."""
        self._cuda.call("cudaGraphLaunch", self._graph, self._stream)

    def free(self) -> None:
        """See Graph."""
        self._cuda.call("cudaGraphExecDestroy", self._graph)
