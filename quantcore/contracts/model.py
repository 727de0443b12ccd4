"""The model contract: a plugin reads weights and yields a FloatModel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from quantcore.ir.model import FloatModel

API_VERSION = 2


@dataclass(frozen=True)
class ModelOptions:
    """What a person may choose about any model; a plugin with choices of its own derives from it.

    Those are fields made with `quantcore.contracts.options.option`.

    Attributes:
        image_size: Of the network input in pixels, (height, width) or the side of a square; None
            for the model's own.
    """

    image_size: int | tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the network input in pixels; None for the model's own."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size


class ModelPlugin(ABC):
    """One entry point of group `quantcore.models`; made with the entry point's name.

    Attributes:
        api_version: The contract that the plugin was written for.
        options: What it takes.
    """

    api_version: ClassVar[int] = API_VERSION
    options: ClassVar[type[ModelOptions]] = ModelOptions

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def load(self, weights: Path, options: ModelOptions) -> FloatModel:
        """Reads weights without executing anything in them.

        Args:
            weights: A checkpoint, or an ONNX file.
            options: The person's choices, of class `self.options` where quantcore calls; any other
                `ModelOptions` says nothing about the plugin's own.

        Raises:
            CheckpointError: Not readable, unsafe, or another architecture.
            UsageError: A choice that does not fit the model.
        """
