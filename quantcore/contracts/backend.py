"""The backend contract: a plugin opens a float model in its framework and calibrates it.

A backend never places a Q/DQ node. It is given the sites to observe, computed by the core before
any image is read, and hands back a range for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from quantcore.contracts.capabilities import (
    Capabilities,
    Support,
    check_arithmetic,
    check_device,
)
from quantcore.contracts.session import BackendSession, SessionOptions, Show, Simulation
from quantcore.ir.model import FloatModel, LayerInfo

__all__ = [
    "API_VERSION",
    "BackendPlugin",
    "BackendSession",
    "Capabilities",
    "FrameworkLayer",
    "SessionOptions",
    "Show",
    "Simulation",
    "Support",
]

API_VERSION = 2


@dataclass(frozen=True)
class FrameworkLayer:
    """A layer as a framework calls it, argument names in the order of LayerInfo's tensors.

    Attributes:
        cls: The framework's class.
        inputs: Its names of the inputs.
        weights: Its names of the weights.
        outputs: Its names of the outputs.
    """

    cls: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


class BackendPlugin(ABC):
    """One entry point of group `quantcore.backends`; made with the entry point's name.

    Attributes:
        api_version: The contract that the plugin was written for.
        capabilities: What it can honour.
    """

    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capabilities]

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Version of the framework, by distribution name."""

    def framework_layer(self, layer: LayerInfo) -> FrameworkLayer | None:
        """What the layer becomes in the framework; None where it is a plain function call."""
        return None

    def open(self, model: FloatModel, options: SessionOptions | None = None) -> BackendSession:
        """Materialises a model in the framework, with its float weights.

        Args:
            model: The float model; left untouched.
            options: Device, arithmetic and threads; None for the defaults.

        Raises:
            BackendError: A node that the backend cannot materialise; names it.
            CapabilityError: The device or the arithmetic is not among the backend's, or the device
                not there.
        """
        options = options or SessionOptions()
        if options.device != "auto":
            check_device(self.name, options.device, self.capabilities.devices)
        check_arithmetic(self.name, self.capabilities, options.arithmetic)
        return self._open(model, options)

    @abstractmethod
    def _open(self, model: FloatModel, options: SessionOptions) -> BackendSession:
        """Opens a model with options that the plugin declares; the framework is imported here."""
