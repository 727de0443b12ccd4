"""CUDA through pycuda (`pycuda.driver`), which has no CUDA graphs and needs a current context."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from quantcore.engines.common import one_line
from quantcore.engines.tensorrt.cuda import Buffer, Bytes, Driver, Gpu, Graph, NoGpu, Queue, Stream
from quantcore.errors import EngineError


class PyCuda(Driver):
    """The CUDA driver, in the context that the CUDA runtime inside TensorRT uses, too.

    Args:
        library: The module `pycuda.driver`.
    """

    def __init__(self, library: Any) -> None:
        self.library = library
        self._gpu: Gpu | NoGpu | None = None

    def gpu(self) -> Gpu | NoGpu:
        """See Driver; the first call makes the GPU's primary context current."""
        if self._gpu is None:
            self._gpu = self._start()
        return self._gpu

    def _start(self) -> Gpu | NoGpu:
        try:
            self.library.init()
            if not self.library.Device.count():
                return NoGpu("there is no GPU")
            device = self.library.Device(0)
            major, minor = device.compute_capability()
            found = Gpu(f"{device.name()} (SM{major}{minor})")
            context = device.retain_primary_context()
            context.push()
        except self.library.Error as error:
            return NoGpu(f"there is no usable GPU ({one_line(error)})")
        # pycuda aborts the process where a context is left on its stack at the end.
        atexit.register(context.pop)
        return found

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Turns pycuda's errors, which name the call, into ours."""
        try:
            yield
        except self.library.Error as error:
            raise EngineError(f"CUDA: {one_line(error)}") from None

    def buffer(self, size: int) -> Buffer:
        """See Driver."""
        self._check()
        return _Buffer(self, size)

    def stream(self) -> Stream:
        """See Driver."""
        self._check()
        return _Stream(self)

    def _check(self) -> None:
        """Starts pycuda where nothing has, yet."""
        found = self.gpu()
        if isinstance(found, NoGpu):
            raise EngineError(f"CUDA: {found.reason}")


class _Buffer(Buffer):
    """An allocation on the GPU and an array in page-locked memory, which frees itself."""

    def __init__(self, cuda: PyCuda, size: int) -> None:
        self._cuda = cuda
        size = max(size, 1)
        with cuda.telling():
            self._allocation: Any = cuda.library.mem_alloc(size)
            self.device = int(self._allocation)
            self._pinned: Bytes | None = cuda.library.pagelocked_empty(size, np.uint8)
        assert self._pinned is not None
        self.here = self._pinned

    def upload(self, count: int, stream: Stream) -> None:
        """See Buffer."""
        with self._cuda.telling():
            self._cuda.library.memcpy_htod_async(self.device, self.here[:count], _own(stream))

    def download(self, count: int, stream: Stream) -> None:
        """See Buffer."""
        with self._cuda.telling():
            self._cuda.library.memcpy_dtoh_async(self.here[:count], self.device, _own(stream))

    def free(self) -> None:
        """See Buffer."""
        if self._allocation is not None:
            with self._cuda.telling():
                self._allocation.free()
        self._allocation = self._pinned = None
        self.here, self.device = np.empty(0, np.uint8), 0


class _Stream(Stream):
    """A stream and its events; pycuda gives them back with their last reference."""

    def __init__(self, cuda: PyCuda) -> None:
        self._cuda = cuda
        with cuda.telling():
            self.own: Any = cuda.library.Stream()
            self._events: Any = cuda.library.Event(), cuda.library.Event()
        self.handle = int(self.own.handle)

    def synchronize(self) -> None:
        """See Stream."""
        with self._cuda.telling():
            self.own.synchronize()

    def milliseconds(self, queue: Queue) -> float:
        """See Stream."""
        begin, end = self._events
        with self._cuda.telling():
            begin.record(self.own)
            queue()
            end.record(self.own)
            end.synchronize()
            return float(end.time_since(begin))

    def record(self, queue: Queue) -> Graph | None:
        """See Stream."""
        return None

    def close(self) -> None:
        """See Stream."""
        self.own = self._events = None


def _own(stream: Stream) -> Any:
    """The stream as pycuda knows it."""
    assert isinstance(stream, _Stream)
    return stream.own
