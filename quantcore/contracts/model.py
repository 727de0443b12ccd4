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
    """What a person may choose about a model.

    Attributes:
        image_size: Side of the square network input in pixels; None for the model's own.
        preset: Pre- and post-processing of a model that does not carry them (`onnx` only).
    """

    image_size: int | None = None
    preset: str | None = None


class ModelPlugin(ABC):
    """One entry point of group `quantcore.models`; made with the entry point's name.

    Attributes:
        api_version: The contract that the plugin was written for.
    """

    api_version: ClassVar[int] = API_VERSION

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def load(self, weights: Path, options: ModelOptions) -> FloatModel:
        """Reads weights without executing anything in them.

        Args:
            weights: A checkpoint, or an ONNX file.
            options: The person's choices.

        Raises:
            CheckpointError: Not readable, unsafe, or another architecture.
            UsageError: An option that this model does not take.
        """
