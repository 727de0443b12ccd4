"""ONNX Runtime as an engine: the default on the CPU and the numerical reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from quantcore.engine import Engine, EngineLayer, EngineOptions, EnginePlugin
from quantcore.errors import EngineError
from quantcore.ir import Array


class OnnxRuntimeEngine(EnginePlugin):
    """Builds inference sessions on the CPU execution provider."""

    def versions(self) -> Mapping[str, str]:
        """See EnginePlugin."""
        import onnxruntime

        return {"onnxruntime": str(onnxruntime.__version__)}

    def build(self, proto: onnx.ModelProto, options: EngineOptions) -> Engine:
        """See EnginePlugin."""
        return _Session(proto, options)


class _Session(Engine):
    """One InferenceSession."""

    def __init__(self, proto: onnx.ModelProto, options: EngineOptions) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        if options.exact:
            # Without fusions every Q, DQ and Conv runs as the graph says, in float32.
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session: Any = ort.InferenceSession(
                proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's own classes all derive from Exception alone
            raise EngineError(f"ONNX Runtime refuses the graph: {_one_line(error)}") from None
        images = self._session.get_inputs()[0]
        self.input_name = images.name
        self.input_shape = tuple(d if isinstance(d, int) else None for d in images.shape)
        self.output_names = tuple(o.name for o in self._session.get_outputs())

    def _infer(self, batch: Array) -> list[Array]:
        if self._session is None:
            raise EngineError("the engine is closed")
        try:
            feeds = {self.input_name: np.ascontiguousarray(batch)}
            return list(self._session.run(None, feeds))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {_one_line(error)}") from None

    def layers(self) -> list[EngineLayer]:
        """ONNX Runtime does not tell what it fused until it is profiled, so no precision here."""
        return []

    def close(self) -> None:
        """See Engine."""
        self._session = None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
