"""What evaluation and timing found: numbers with units that serialise and never render."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: The twelve COCO figures in the order in which the COCO tools list them.
COCO_FIGURES = (
    "map",
    "map50",
    "map75",
    "map_small",
    "map_medium",
    "map_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)


@dataclass(frozen=True, kw_only=True)
class LatencyResult:
    """How long an engine takes for a batch; the engine alone, without pre- and post-processing.

    Attributes:
        p50_ms: Median milliseconds for one batch.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        mean_ms: Arithmetic mean.
        batch_size: Images in the batch.
        images_per_second: Throughput at the mean.
        runs: Timed runs, warm-up not counted.
        device_p50_ms: Median by the clock of the device that the engine runs on (CUDA events),
            without the copies to and from it; None where it has none. All others are wall time.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    batch_size: int
    images_per_second: float
    runs: int
    device_p50_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
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

    def figures(self) -> dict[str, float | None]:
        """The twelve COCO figures by name."""
        return {name: getattr(self, name) for name in COCO_FIGURES}
