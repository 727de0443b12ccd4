"""A plan on a GPU: page-locked buffers, one stream, and a CUDA graph for each batch size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantcore.engine import Engine, EngineLayer
from quantcore.engines.tensorrt import cuda
from quantcore.engines.tensorrt.inspector import read_layers
from quantcore.engines.tensorrt.library import Logger, trt
from quantcore.errors import EngineError
from quantcore.ir import Array


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


class Session(Engine):
    """A deserialized plan with one execution context."""

    def __init__(self, plan: bytes) -> None:
        self._buffers: dict[str, cuda.Buffer] = {}
        self._recorded: dict[int, cuda.Recorded | None] = {}
        self._stream: Any = None
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

    def _allocate(self) -> None:
        """Memory for the largest batch, at addresses that never change: graphs keep them."""
        engine, context = self._live.engine, self._live.context
        self._stream = cuda.call("cudaStreamCreate")
        context.set_input_shape(self.input_name, self._largest)
        nptype: Any = trt.nptype
        for name in (self.input_name, *self.output_names):
            dtype = nptype(engine.get_tensor_dtype(name))
            self._buffers[name] = cuda.Buffer(self._shape(name), dtype)
            context.set_tensor_address(name, self._buffers[name].device)

    def _infer(self, batch: Array) -> list[Array]:
        context = self._live.context
        if len(batch) > self._largest[0]:
            raise EngineError(
                f"a batch of {len(batch)}: the plan is built for up to {self._largest[0]}; build "
                "it with a larger max_batch"
            )
        if not context.set_input_shape(self.input_name, batch.shape):
            raise EngineError(f"{trt.__name__} refuses the input: {self._logger.reason()}")
        self._buffers[self.input_name].host(batch.shape)[...] = batch
        self._run(len(batch))
        cuda.call("cudaStreamSynchronize", self._stream)
        return [
            self._buffers[name].host(self._shape(name)).astype(np.float32)
            for name in self.output_names
        ]

    def _run(self, size: int) -> None:
        """Queues a batch: the first of its size directly, later ones as a CUDA graph."""
        graph = self._recorded.get(size)
        if graph is not None:
            graph.launch(self._stream)
            return
        self._queue()
        if size not in self._recorded:
            # The run above has done what is done once and must not be recorded.
            cuda.call("cudaStreamSynchronize", self._stream)
            try:
                self._recorded[size] = cuda.Recorded(self._stream, self._queue)
            except EngineError:
                self._recorded[size] = None  # some plans cannot be recorded; they run as they are

    def _queue(self) -> None:
        images = self._buffers[self.input_name]
        images.copy(self._shape(self.input_name), to_device=True, stream=self._stream)
        if not self._live.context.execute_async_v3(int(self._stream)):
            raise EngineError(f"{trt.__name__} failed: {self._logger.reason()}")
        for name in self.output_names:
            self._buffers[name].copy(self._shape(name), to_device=False, stream=self._stream)

    def _shape(self, name: str) -> tuple[int, ...]:
        dims: Any = self._live.context.get_tensor_shape(name)
        return tuple(dims)

    def layers(self) -> list[EngineLayer]:
        """From the engine inspector."""
        inspector = self._live.engine.create_engine_inspector()
        inspector.execution_context = self._live.context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return read_layers(json.loads(text))

    def close(self) -> None:
        """See Engine."""
        for graph in self._recorded.values():
            if graph is not None:
                graph.free()
        for buffer in self._buffers.values():
            buffer.free()
        if self._stream is not None:
            cuda.call("cudaStreamDestroy", self._stream)
        self._recorded, self._buffers = {}, {}
        self._stream = self._loaded = None
