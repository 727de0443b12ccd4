"""The entry point: what the backend can do; the calibrators are imported when a model is opened."""

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


class OnnxRuntimeBackend(BackendPlugin):
    """Calibrates with MinMaxCalibrater, PercentileCalibrater and EntropyCalibrater."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        activation_observers={
            "max": frozenset(),
            "moving_average": frozenset({"momentum"}),
            "percentile": frozenset({"percentile", "bins"}),
            "entropy": frozenset({"bins"}),
        },
        weight_observers={"max": frozenset()},
    )

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return versions_of(("onnxruntime", "numpy"))

    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        from quantcore_backend_onnxruntime.session import OnnxRuntimeSession

        engine = load_engine("onnxruntime")
        return OnnxRuntimeSession(self.name, model, self.capabilities, options, engine)
