"""What the figures of a task are called: in JSON, in tables, in reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The figures of a task; the first one is what graphs are compared by.

    Attributes:
        figures: Their names in JSON, in the order in which they are listed.
        title: What people call the main figure.
        runner_up: Name in JSON and title of the figure that tables show beside it.
        heading: The main figure with what it is measured over.
        by_class: The main figure of each class.
        kept: What a network finds in images, which is what two graphs agree on.
        drop_per_loss: Drop of the main figure for each share of what is found that is lost, in the
            mean over quantized networks; a measurement where it is tight, a guess where it is not.
        drop_spread: Its standard deviation between networks, of the drop itself.
        counts_images: Whether the main figure is a share of the images.
    """

    figures: tuple[str, ...]
    title: str
    runner_up: tuple[str, str]
    heading: str
    by_class: str
    kept: str
    drop_per_loss: float
    drop_spread: float
    counts_images: bool = False

    @property
    def name(self) -> str:
        """The main figure's name in JSON."""
        return self.figures[0]

    @property
    def methods(self) -> tuple[str, str, str]:
        """What layers can be ranked by: the main figure, what is kept, and signal to noise."""
        return (self.name, self.kept, SQNR)


#: Ranks layers of any task.
SQNR = "sqnr"

#: The twelve figures in the order in which the COCO tools list them.
COCO = Metric(
    figures=(
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
    ),
    title="mAP",
    runner_up=("map50", "AP50"),
    heading="mAP at IoU 0.50:0.95",
    by_class="AP by class",
    kept="detections",
    # Of 18 tables of YOLOv5n and YOLOX-nano, judged on 159 to 239 images: docs/auto.md.
    drop_per_loss=0.12,
    drop_spread=0.5,
)

#: How often the right class is the best, or among the best five.
TOP = Metric(
    figures=("top1", "top5"),
    title="top-1",
    runner_up=("top5", "top-5"),
    heading="share of images whose best class is right, top-1",
    by_class="Top-1 by class",
    kept="classes",
    # What is lost of the probabilities is at most what is lost of the best classes.
    drop_per_loss=0.5,
    drop_spread=1.0,
    counts_images=True,
)

#: By the name of the main figure.
METRICS = {metric.name: metric for metric in (COCO, TOP)}
