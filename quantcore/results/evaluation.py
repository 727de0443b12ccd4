"""What evaluation found: numbers with units that serialise and never render."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from quantcore.results.metric import COCO, TOP, Metric


class Accuracy:
    """The figures of a model on one set of images; a subclass for each task has them as fields.

    Attributes:
        metric: What they are called.
        per_class: The main figure by class name, in the order of category ids.
        images: How many were run.
        preprocess_ms: CPU milliseconds an image for reading and resizing, in reader threads that
            run beside the engine.
        inference_ms: Milliseconds an image in the engine.
        postprocess_ms: Milliseconds an image for what is left to do with its outputs.
    """

    metric: ClassVar[Metric]
    per_class: Mapping[str, float | None]
    images: int
    preprocess_ms: float
    inference_ms: float
    postprocess_ms: float

    @property
    def main(self) -> float | None:
        """What graphs are compared by."""
        return self.figures()[self.metric.name]

    def figures(self) -> dict[str, float | None]:
        """All figures by name."""
        return {name: getattr(self, name) for name in self.metric.figures}


@dataclass(frozen=True, kw_only=True)
class DetectionResult(Accuracy):
    """COCO's figures for one model on one set of images, each 0..1.

    None stands for a figure that has no ground truth to be measured on.

    Attributes:
        map: AP averaged over IoU 0.50:0.95.
        map50: AP at IoU 0.50.
        map75: AP at IoU 0.75.
        map_small: `map` of objects below 32 x 32 pixels.
        map_medium: Of those below 96 x 96.
        map_large: Of the others.
        ar1: Recall over IoU 0.50:0.95 with one detection an image and class.
        ar10: With ten.
        ar100: With a hundred.
        ar_small: `ar100` of objects below 32 x 32 pixels.
        ar_medium: Of those below 96 x 96.
        ar_large: Of the others.
        per_class: `map` by class name, in the order of category ids.
        images: How many were run.
        preprocess_ms: CPU milliseconds an image for reading and letterbox, in reader threads
            that run beside the engine.
        inference_ms: Milliseconds an image in the engine.
        postprocess_ms: Milliseconds an image for decoding, NMS and mapping back.
    """

    metric: ClassVar[Metric] = COCO

    map: float | None
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    images: int = 0
    preprocess_ms: float = 0.0
    inference_ms: float = 0.0
    postprocess_ms: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ClassificationResult(Accuracy):
    """How often the right class comes out, each figure 0..1; None without any image.

    Attributes:
        top1: Share of the images whose best class is the right one.
        top5: Share of those where it is among the best five.
        per_class: `top1` by class name, in the order of the folders.
        images: See `Accuracy`, as the next three.
        preprocess_ms: As there.
        inference_ms: As there.
        postprocess_ms: As there.
    """

    metric: ClassVar[Metric] = TOP

    top1: float | None
    top5: float | None
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    images: int = 0
    preprocess_ms: float = 0.0
    inference_ms: float = 0.0
    postprocess_ms: float = 0.0
