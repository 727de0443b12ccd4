"""A plan on a GPU: page-locked buffers, one stream, and a CUDA graph for each batch size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantcore.contracts.engine import Engine, EngineLayer
from quantcore.engines.tensorrt import cuda
from quantcore.engines.tensorrt.inspector import read_layers
from quantcore.engines.tensorrt.library import Logger, trt
from quantcore.errors import EngineError
from quantcore.ir.model import Array


@dataclass(frozen=True)
class _Loaded:
    """What a plan becomes; a context lives no longer than its engine, nor that than the runtime."""

    runtime: trt.Runtime
    engine: trt.ICudaEngine
    context: trt.IExecutionContext


def _load(plan: bytes, logger: Logger) -> _Loaded:
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    # The library answers failures with None, which its type stubs do not tell.
    context = None if engine is None else engine.create_execution_context()
    if context is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot run the plan here: {logger.reason()}"
        )
    return _Loaded(runtime, engine, context)


class TensorRtSession(Engine):
    """A deserialized plan with one execution context.

    Args:
        plan: As TensorRT serialized it.
        driver: CUDA; it has a GPU.
        graphs: Whether runs are recorded as CUDA graphs.

    Raises:
        EngineError: The plan does not fit this library or GPU, or its memory cannot be had.
    """

    def __init__(self, plan: bytes, driver: cuda.Driver, graphs: bool = True) -> None:
        self._driver, self._recording = driver, graphs
        self._buffers: dict[str, cuda.Buffer] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._graphs: dict[int, cuda.Graph | None] = {}
        self._stream: cuda.Stream | None = None
        self._logger = Logger()
        self._loaded: _Loaded | None = _load(plan, self._logger)
        engine = self._live.engine
        names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.input_name = inputs[0]
        self.output_names = tuple(n for n in names if n not in inputs)
        dims: Any = engine.get_tensor_shape(self.input_name)
        self.input_shape = tuple(None if size < 0 else size for size in dims)
        if None in self.input_shape:
            dims = engine.get_tensor_profile_shape(self.input_name, 0)[2]
        self._largest: tuple[int, ...] = tuple(dims)
        try:
            self._allocate()
        except EngineError:
            self.close()
            raise

    @property
    def _live(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("the engine is closed")
        return self._loaded

    @property
    def _queue(self) -> cuda.Stream:
        if self._stream is None:
            raise EngineError("the engine is closed")
        return self._stream

    def _allocate(self) -> None:
        """Memory for the largest batch, at addresses that never change: graphs keep them."""
        engine, context = self._live.engine, self._live.context
        self._stream = self._driver.stream()
        context.set_input_shape(self.input_name, self._largest)
        nptype: Any = trt.nptype
        for name in (self.input_name, *self.output_names):
            self._dtypes[name] = np.dtype(nptype(engine.get_tensor_dtype(name)))
            self._buffers[name] = self._driver.buffer(self._bytes(name))
            context.set_tensor_address(name, self._buffers[name].device)

    def _infer(self, batch: Array) -> list[Array]:
        self._upload(batch)
        self._compute(len(batch))
        for name in self.output_names:
            self._buffers[name].download(self._bytes(name), self._queue)
        self._queue.synchronize()
        return [
            self._buffers[name].host(self._shape(name), self._dtypes[name]).astype(np.float32)
            for name in self.output_names
        ]

    def _device_seconds(self, batch: Array) -> float | None:
        """By CUDA events around the network, without the copies before and behind it."""
        self._upload(batch)
        size = len(batch)
        if size not in self._graphs and self._recording:
            self._compute(size)  # records, which is not to be timed
        return self._queue.milliseconds(lambda: self._compute(size)) / 1e3

    def _upload(self, batch: Array) -> None:
        """Queues the copy of a batch to the GPU and sets the shapes that follow from it."""
        context = self._live.context
        if len(batch) > self._largest[0]:
            raise EngineError(
                f"a batch of {len(batch)}: the plan is built for up to {self._largest[0]}; build "
                "it with a larger max_batch"
            )
        if not context.set_input_shape(self.input_name, batch.shape):
            raise EngineError(f"{trt.__name__} refuses the input: {self._logger.reason()}")
        images = self._buffers[self.input_name]
        images.host(batch.shape, self._dtypes[self.input_name])[...] = batch
        images.upload(self._bytes(self.input_name), self._queue)

    def _compute(self, size: int) -> None:
        """Queues the network: the first of its batch size directly, later ones as a CUDA graph."""
        graph = self._graphs.get(size)
        if graph is not None:
            graph.launch()
            return
        self._enqueue()
        if size not in self._graphs and self._recording:
            # The run above has done what is done once and must not be recorded.
            self._queue.synchronize()
            self._graphs[size] = self._queue.record(self._enqueue)

    def _enqueue(self) -> None:
        if not self._live.context.execute_async_v3(self._queue.handle):
            raise EngineError(f"{trt.__name__} failed: {self._logger.reason()}")

    def _shape(self, name: str) -> tuple[int, ...]:
        dims: Any = self._live.context.get_tensor_shape(name)
        return tuple(dims)

    def _bytes(self, name: str) -> int:
        return cuda.size_of(self._shape(name), self._dtypes[name])

    def runs_on(self) -> str:
        """See Engine."""
        found = self._driver.gpu()
        return found.name if isinstance(found, cuda.Gpu) else ""

    def layers(self) -> list[EngineLayer]:
        """From the engine inspector."""
        inspector = self._live.engine.create_engine_inspector()
        inspector.execution_context = self._live.context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return read_layers(json.loads(text))

    def close(self) -> None:
        """See Engine."""
        for graph in self._graphs.values():
            if graph is not None:
                graph.free()
        for buffer in self._buffers.values():
            buffer.free()
        if self._stream is not None:
            self._stream.close()
        self._graphs, self._buffers = {}, {}
        self._stream = self._loaded = None
