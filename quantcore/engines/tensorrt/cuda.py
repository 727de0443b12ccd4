"""The few CUDA calls that running a plan needs, through cuda-python."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.errors import EngineError

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Gpu:
    """The current GPU."""

    name: str


@dataclass(frozen=True)
class NoGpu:
    """Why there is none."""

    reason: str


def gpu() -> Gpu | NoGpu:
    """The GPU that plans run on here."""
    try:
        runtime = _runtime()
    except ImportError:
        return NoGpu('running on a GPU needs cuda-python; run: pip install "cuda-bindings"')
    error, count = runtime.cudaGetDeviceCount()
    if error != runtime.cudaError_t.cudaSuccess or not count:
        why = runtime.cudaGetErrorName(error)[1]
        return NoGpu(f"there is no usable GPU ({why.decode() if why else error})")
    error, facts = runtime.cudaGetDeviceProperties(0)
    if error != runtime.cudaError_t.cudaSuccess:
        return NoGpu(f"the GPU does not answer ({error})")
    name = facts.name.decode() if isinstance(facts.name, bytes) else str(facts.name)
    return Gpu(f"{name} (SM{facts.major}{facts.minor})")


def _runtime() -> Any:
    """`cuda.bindings.runtime`, which releases before 12.6 called `cuda.cudart`."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return importlib.import_module("cuda.cudart")


def call(name: str, *arguments: Any) -> Any:
    """Calls the CUDA runtime and unpacks its answer.

    Raises:
        EngineError: CUDA failed.
    """
    runtime = _runtime()
    error, *values = getattr(runtime, name)(*arguments)
    if error != runtime.cudaError_t.cudaSuccess:
        raise EngineError(f"CUDA: {name} failed: {getattr(error, 'name', error)}")
    return values[0] if len(values) == 1 else tuple(values) or None


class Buffer:
    """Memory on the GPU and page-locked memory here, of one size, copied either way."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._bytes = max(int(np.prod(shape)) * self.dtype.itemsize, 1)
        self.device = int(call("cudaMalloc", self._bytes))
        self._pinned = 0
        try:
            self._pinned = int(call("cudaMallocHost", self._bytes))
        except EngineError:
            self.free()
            raise
        here = (ctypes.c_ubyte * self._bytes).from_address(self._pinned)
        self._here: Values = np.ctypeslib.as_array(here).view()

    def host(self, shape: tuple[int, ...]) -> Values:
        """The first values of the page-locked memory."""
        size = int(np.prod(shape)) * self.dtype.itemsize
        return self._here[:size].view(self.dtype).reshape(shape)

    def copy(self, shape: tuple[int, ...], to_device: bool, stream: Any) -> None:
        """Queues a copy of the first values."""
        size = int(np.prod(shape)) * self.dtype.itemsize
        kinds = _runtime().cudaMemcpyKind
        if to_device:
            kind, to, source = kinds.cudaMemcpyHostToDevice, self.device, self._pinned
        else:
            kind, to, source = kinds.cudaMemcpyDeviceToHost, self._pinned, self.device
        call("cudaMemcpyAsync", to, source, size, kind, stream)

    def free(self) -> None:
        """Gives both back; safe to call twice."""
        if self._pinned:
            call("cudaFreeHost", self._pinned)
        if self.device:
            call("cudaFree", self.device)
        self._pinned = self.device = 0


class Recorded:
    """Queued work recorded once as a CUDA graph and launched as a whole from then on."""

    def __init__(self, stream: Any, queue: Callable[[], None]) -> None:
        modes = _runtime().cudaStreamCaptureMode
        call("cudaStreamBeginCapture", stream, modes.cudaStreamCaptureModeThreadLocal)
        try:
            queue()
        finally:
            # Also after a failure: a stream left in capture refuses everything else.
            graph = call("cudaStreamEndCapture", stream)
        try:
            self._graph = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)

    def launch(self, stream: Any) -> None:
        """Queues the recorded work."""
        call("cudaGraphLaunch", self._graph, stream)

    def free(self) -> None:
        """Gives the graph back."""
        call("cudaGraphExecDestroy", self._graph)
