"""The model plugin behind every name that this distribution registers."""

from __future__ import annotations

from pathlib import Path

from quantcore.contracts.model import ModelOptions, ModelPlugin
from quantcore.errors import UsageError
from quantcore.ir.model import FloatModel
from quantcore_yolo.architecture import build_model
from quantcore_yolo.checkpoint import read_checkpoint
from quantcore_yolo.families import FAMILIES


class YoloPlugin(ModelPlugin):
    """YOLOv5 and YOLOv7 from official checkpoints, of any width and number of classes."""

    def __init__(self, name: str) -> None:
        """Raises UsageError for a name that is none of the registered ones."""
        if name not in FAMILIES:
            raise UsageError(f"unknown model {name!r}; known are {', '.join(FAMILIES)}")
        super().__init__(name)

    def load(self, weights: Path, options: ModelOptions) -> FloatModel:
        """Reads a `.pt` or `.safetensors` checkpoint; nothing in it is executed.

        Args:
            weights: The checkpoint.
            options: `size`, multiples of the coarsest stride.

        Raises:
            CheckpointError: Not readable, unsafe, or another architecture.
            UsageError: An image size that does not fit.
        """
        return build_model(read_checkpoint(Path(weights)), self.name, options.size)
