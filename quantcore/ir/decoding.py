"""How raw network outputs become what a task keeps: what the rest of the code asks of decodings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import onnx

from quantcore.errors import UsageError

if TYPE_CHECKING:  # a model has a decoding
    from quantcore.ir.model import Array

#: Output name of a detector's graph that decodes by itself; see `Decoding.draw`.
DECODED = "detections"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Limits:
    """Which boxes count as detections.

    Attributes:
        conf: Detections must score higher.
        iou: NMS threshold.
        detections: At most so many for an image.
    """

    conf: float = 0.001
    iou: float = 0.65
    detections: int = 300

    def __post_init__(self) -> None:
        """Raises UsageError for a threshold outside 0..1, or no detections allowed."""
        if not (0 <= self.conf <= 1 and 0 <= self.iou <= 1 and self.detections >= 1):
            raise UsageError(
                f"thresholds must lie in 0..1 and max. detections be 1 or more: {self.conf}, "
                f"{self.iou}, {self.detections}"
            )


#: What everything is evaluated with that says nothing else.
LIMITS = Limits()


class Decoding(ABC):
    """One entry point of group `quantcore.decodings`; subclasses are frozen dataclasses.

    Two that are equal decode alike, and `from_dict(to_dict())` is equal: a description, a content
    key and another process know a decoding by its `to_dict` alone.

    Attributes:
        kind: The entry point's name; an ONNX file's description names the decoding by it.
        task: What its networks are for; names the task in `quantcore.evaluation.tasks`, which says
            how images are scored.
        output: Output name of a graph that decodes by itself; see `draw`.
        rank: How many dimensions that output has.
    """

    kind: ClassVar[str]
    task: ClassVar[str] = "detection"
    output: ClassVar[str] = DECODED
    rank: ClassVar[int] = 3

    @property
    @abstractmethod
    def heads(self) -> int:
        """How many outputs of the network it reads."""

    @property
    @abstractmethod
    def drawn(self) -> Decoding:
        """What is left to decode once `draw` has drawn this one; itself where nothing changes."""

    @abstractmethod
    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> int | None:
        """How many classes outputs of these shapes score; None where shapes do not tell.

        Args:
            shapes: Of the network's outputs, in the order of the model's heads.
            size: (height, width) of the network input in pixels.

        Raises:
            ModelError: Outputs of other shapes or of another number are decoded here.
        """

    @abstractmethod
    def detect(
        self, outputs: Sequence[Array], size: tuple[int, int], limits: Limits
    ) -> list[Array]:
        """What is found in each image of a batch: detections, or what the task has instead.

        Args:
            outputs: The network's outputs, in the order of the model's heads; left as they are.
            size: (height, width) of the network input in pixels.
            limits: Which boxes count.

        Returns:
            For each image n x 6, best first: x1, y1, x2, y2 in network pixels, score, class index.
            Of the task `classification` the probability of each class.

        Raises:
            ModelError: See `classes`.
        """

    @abstractmethod
    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """Every prediction: what a graph returns into which `draw` has drawn this decoding.

        Args:
            outputs: See `detect`.
            size: Likewise.

        Raises:
            ModelError: See `classes`.
        """

    @abstractmethod
    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """Appends nodes that compute `decode`; the last one writes `output`.

        Args:
            graph: Changed in place, but for its outputs; opset 13 or later.
            heads: The tensors to start from, `self.heads` of them.
            size: (height, width) of the network input in pixels.
        """

    def importance(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[Array] | None:
        """How much an error in each value of the outputs matters to what is detected.

        Training weighs its squared errors with it: almost all that a detector says is of places
        where it sees nothing.

        Args:
            outputs: The float network's, in the order of the model's heads.
            size: (height, width) of the network input in pixels.

        Returns:
            For each output weights of its shape; None where every value counts alike.

        Raises:
            ModelError: See `classes`.
        """
        return None

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """What an ONNX file's description holds: `kind` and whatever `from_dict` needs."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decoding:
        """The decoding that a description holds.

        Raises:
            KeyError: Something is missing.
            TypeError: A value is of the wrong kind.
            ValueError: A value does not make sense.
            ModelError: The values do not fit each other.
        """
