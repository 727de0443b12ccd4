"""The entry point: what the backend can do; the framework is imported when a model is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from quantcore.backend import BackendPlugin, BackendSession, Capabilities
from quantcore.ir import FloatModel
from quantcore.registry import versions_of

_SEARCH = frozenset({"bins", "start_bin", "stride"})


class PytorchQuantizationBackend(BackendPlugin):
    """Calibrates with the toolkit's TensorQuantizers around torch modules."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        activation_observers={
            "max": frozenset(),
            "percentile": frozenset({"percentile", "bins"}),
            "entropy": _SEARCH,
            "mse": _SEARCH,
        },
        weight_observers={"max": frozenset()},
        simulate=True,
        devices=("cpu", "cuda"),
    )

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return versions_of(("pytorch-quantization", "torch"))

    def open(self, model: FloatModel, device: str = "auto") -> BackendSession:
        """See BackendPlugin."""
        from quantcore_pytorch_quantization.session import Session

        return Session(self.name, model, self.capabilities, device)
