"""The entry point: what the backend can do; NNCF is imported when a model is opened."""

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


class NncfBackend(BackendPlugin):
    """Calibrates with NNCF's reducers and aggregators."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        activation_observers={
            "max": frozenset(),
            "moving_average": frozenset(),
            "percentile": frozenset({"percentile"}),
            "mse": frozenset(),
        },
        weight_observers={"max": frozenset()},
    )

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return versions_of(("nncf", "onnxruntime"))

    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        from quantcore_backend_nncf.session import NncfSession

        engine = load_engine("onnxruntime")
        return NncfSession(self.name, model, self.capabilities, options, engine)
