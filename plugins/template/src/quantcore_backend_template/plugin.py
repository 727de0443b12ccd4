"""The entry point: what the backend can do; the framework is imported when a model is opened."""

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


class TemplateBackend(BackendPlugin):
    """Declares the least that a backend can have; declare what yours has."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        activation_observers={"max": frozenset()},
        weight_observers={"max": frozenset()},
    )

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return versions_of(("numpy", "onnxruntime"))

    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        from quantcore_backend_template.session import TemplateSession

        engine = load_engine("onnxruntime")
        return TemplateSession(self.name, model, self.capabilities, options, engine)
