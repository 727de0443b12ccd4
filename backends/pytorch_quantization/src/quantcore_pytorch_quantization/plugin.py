"""The entry point: what the backend can do; the framework is imported when a model is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from quantcore.contracts.backend import (
    BackendPlugin,
    BackendSession,
    Capabilities,
    FrameworkLayer,
    SessionOptions,
    Support,
)
from quantcore.contracts.registry import versions_of
from quantcore.ir.model import FloatModel, LayerInfo
from quantcore_pytorch_quantization.imports import light_import
from quantcore_pytorch_quantization.supported import OPERATORS

#: Neutral op -> the toolkit's class; all of them call their tensors alike.
_CLASSES = {
    "conv2d": "QuantConv2d",
    "conv_transpose2d": "QuantConvTranspose2d",
    "linear": "QuantLinear",
}
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
        implementations=frozenset({"native", "portable"}),
        simulate=Support.SYMMETRIC,
        train=Support.FULL,
        arithmetics=frozenset({"float32", "float64"}),
        devices=("cpu", "cuda"),
        operators=frozenset(OPERATORS),
    )

    def versions(self) -> Mapping[str, str]:
        """See BackendPlugin."""
        return versions_of(("pytorch-quantization", "torch"))

    def framework_layer(self, layer: LayerInfo) -> FrameworkLayer | None:
        """See BackendPlugin."""
        if layer.op not in _CLASSES:
            return None
        name = f"pytorch_quantization.nn.{_CLASSES[layer.op]}"
        return FrameworkLayer(name, ("input",), ("weight",), ("output",))

    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        with light_import():
            from quantcore_pytorch_quantization.session import TorchSession

        return TorchSession(self.name, model, self.capabilities, options)
