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
from quantcore_paddle.containment import contained_import
from quantcore_paddle.layer_map import framework_layer
from quantcore_paddle.supported import OPERATORS


class PaddleBackend(BackendPlugin):
    """Calibrates with Paddle's PTQ quantizers around a paddle.nn.Layer."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        activation_observers={
            "max": frozenset(),
            "percentile": frozenset({"percentile", "bins"}),
            # Paddle's search has a fixed start (half of amax) and stride (1); it has no mse.
            "entropy": frozenset({"bins"}),
            "moving_average": frozenset({"momentum"}),
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
        """See BackendPlugin; NumPy counts Paddle's histograms."""
        return versions_of(("paddlepaddle", "numpy"))

    def framework_layer(self, layer: LayerInfo) -> FrameworkLayer | None:
        """See BackendPlugin."""
        return framework_layer(layer)

    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        with contained_import():
            from quantcore_paddle.session import PaddleSession

        return PaddleSession(self.name, model, self.capabilities, options)
