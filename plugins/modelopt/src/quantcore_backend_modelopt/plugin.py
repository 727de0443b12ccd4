"""The entry point: what the backend can do; Model Optimizer is imported when it calibrates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from quantcore.contracts.backend import (
    BackendPlugin,
    BackendSession,
    Capabilities,
    SessionOptions,
)
from quantcore.contracts.registry import load_engine, versions_of
from quantcore.ir.model import FloatModel


class ModelOptBackend(BackendPlugin):
    """Calibrates with ONNX Runtime's calibrators as Model Optimizer changes them."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        activation_observers={"max": frozenset(), "entropy": frozenset()},
        weight_observers={"max": frozenset()},
    )

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return versions_of(("nvidia-modelopt", "onnxruntime"))

    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        from quantcore_backend_modelopt.session import ModelOptSession

        engine = load_engine("onnxruntime")
        return ModelOptSession(self.name, model, self.capabilities, options, engine)
