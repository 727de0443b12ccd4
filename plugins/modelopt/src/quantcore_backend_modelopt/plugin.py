"""The entry point: what the backend can do; Model Optimizer is imported when it calibrates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from quantcore.contracts.backend import BackendPlugin, BackendSession, Capabilities
from quantcore.contracts.registry import versions_of
from quantcore.errors import CapabilityError
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

    def open(self, model: FloatModel, device: str = "auto") -> BackendSession:
        """See BackendPlugin."""
        if device not in ("auto", *self.capabilities.devices):
            raise CapabilityError(f"backend {self.name!r} has no device {device!r}; it has: cpu")
        from quantcore_backend_modelopt.session import Session

        return Session(self.name, model, self.capabilities)
