"""What running a plan needs of CUDA; cuda-python gives it, or pycuda where only that is there."""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.engines.common import one_line

Values = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
#: Queues work on a stream and returns before it is done.
Queue = Callable[[], None]


@dataclass(frozen=True)
class Gpu:
    """The current GPU."""

    name: str


@dataclass(frozen=True)
class NoGpu:
    """Why there is none."""

    reason: str


class Buffer(ABC):
    """Memory on the GPU and page-locked memory here, of one size, copied either way.

    Attributes:
        device: Address on the GPU.
        here: The page-locked memory.
    """

    device: int
    here: Bytes

    def host(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Values:
        """The first values of the page-locked memory."""
        return self.here[: size_of(shape, dtype)].view(dtype).reshape(shape)

    @abstractmethod
    def upload(self, count: int, stream: Stream) -> None:
        """Queues a copy of the first bytes to the GPU."""

    @abstractmethod
    def download(self, count: int, stream: Stream) -> None:
        """Queues a copy of the first bytes from the GPU."""

    @abstractmethod
    def free(self) -> None:
        """Gives both back; safe to call twice."""


class Graph(ABC):
    """Queued work recorded once as a CUDA graph and launched as a whole from then on."""

    @abstractmethod
    def launch(self) -> None:
        """Queues the recorded work on the stream that it was recorded on."""

    @abstractmethod
    def free(self) -> None:
        """Gives the graph back."""


class Stream(ABC):
    """A queue of the GPU, with two events that tell how long work in it takes.

    Attributes:
        handle: The stream as TensorRT takes it.
    """

    handle: int

    @abstractmethod
    def synchronize(self) -> None:
        """Waits until everything queued is done; raises EngineError for what failed in it."""

    @abstractmethod
    def milliseconds(self, queue: Queue) -> float:
        """Queues work between two events, waits for it, and tells the time between them."""

    @abstractmethod
    def record(self, queue: Queue) -> Graph | None:
        """Records work as a CUDA graph without running it.

        Returns:
            None where the work cannot be recorded, or the library cannot do it.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives stream and events back."""


class Driver(ABC):
    """One library that drives CUDA; its calls raise EngineError where CUDA fails."""

    @abstractmethod
    def gpu(self) -> Gpu | NoGpu:
        """The GPU that plans run on here."""

    @abstractmethod
    def buffer(self, size: int) -> Buffer:
        """Memory of so many bytes on both sides."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream."""


#: Modules in the order they are tried, and the class of ours that drives each. Releases of
#: cuda-python before 12.6 called the first one `cuda.cudart`.
LIBRARIES = (
    ("cuda.bindings.runtime", "cuda_python", "CudaPython"),
    ("cuda.cudart", "cuda_python", "CudaPython"),
    ("pycuda.driver", "cuda_pycuda", "PyCuda"),
)


@functools.cache
def driver() -> Driver | NoGpu:
    """The first library that is installed; it is loaded once in a process."""
    for name, file, class_name in LIBRARIES:
        try:
            library = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                continue
            return NoGpu(f"{name} does not load: {one_line(error)}")
        except ImportError as error:  # pycuda without the GPU's driver
            return NoGpu(f"{name} does not load: {one_line(error)}")
        ours = importlib.import_module(f"quantcore.engines.tensorrt.{file}")
        found: Driver = getattr(ours, class_name)(library)
        return found
    return NoGpu('running on a GPU needs cuda-python; run: pip install "cuda-bindings"')


def gpu() -> Gpu | NoGpu:
    """The GPU that plans run on here."""
    found = driver()
    return found if isinstance(found, NoGpu) else found.gpu()


def size_of(shape: tuple[int, ...], dtype: npt.DTypeLike) -> int:
    """Bytes of an array."""
    return int(np.prod(shape)) * np.dtype(dtype).itemsize
