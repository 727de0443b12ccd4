"""What a closer look at a quantized graph found: scores as deployed, pictures, layers."""

from __future__ import annotations

from dataclasses import dataclass

from quantcore.results.estimate import Estimate


@dataclass(frozen=True, kw_only=True)
class Point:
    """Detections above a threshold of the score, held against the truth.

    Attributes:
        confidence: The threshold.
        precision: Share of the detections that are right.
        recall: Share of the objects that are found.
        f1: Their harmonic mean.
        f1_difference: Of F1 against the float model's, on the same draws; None for that itself.
    """

    confidence: float
    precision: Estimate
    recall: Estimate
    f1: Estimate
    f1_difference: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How the scores of the same objects differ between the float model and a quantized graph.

    Attributes:
        confidence: Boxes that the float model scores higher are looked at.
        boxes: How many those are.
        matched: How many of them the other graph finds, however faintly.
        mean: Mean of the other graph's score less the float model's.
        low: Nine in ten of these differences are above it and below `high`.
        high: See `low`.
        lost: Boxes that fall below the threshold.
        gained: Boxes that rise above it.
    """

    confidence: float
    boxes: int
    matched: int
    mean: float
    low: float
    high: float
    lost: int
    gained: int


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """One variant at fixed thresholds.

    Attributes:
        variant: Its name.
        points: By threshold.
        shift: None for the float model.
    """

    variant: str
    points: tuple[Point, ...]
    shift: Shift | None = None


@dataclass(frozen=True)
class DeployedScores:
    """All variants at fixed thresholds."""

    variants: tuple[Deployed, ...]


@dataclass(frozen=True)
class Pane:
    """One drawn picture: its caption, and its file in the output folder."""

    caption: str
    file: str


@dataclass(frozen=True, kw_only=True)
class ChangedImage:
    """An image that a quantized graph changes much.

    Attributes:
        title: Its file, and whether it loses or gains.
        about: What was lost and gained, by name and score.
        panes: Float, INT8, truth.
    """

    title: str
    about: str
    panes: tuple[Pane, ...]


@dataclass(frozen=True, kw_only=True)
class ChangedImages:
    """The images that a variant changes most.

    Attributes:
        variant: Its name.
        confidence: Boxes above are looked at.
        images: Those that lose most first, then those that gain.
    """

    variant: str
    confidence: float
    images: tuple[ChangedImage, ...]


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """One quantized layer.

    Attributes:
        layer: Its name.
        op: What it is.
        own_db: SQNR of its output where it alone is quantized.
        reached_db: Where everything before it is quantized too.
        int8: Whether the engine runs it in INT8.
        precision: What it runs in; None where that is not told.
        why: Why that is not INT8.
    """

    layer: str
    op: str
    own_db: float | None
    reached_db: float | None
    int8: bool
    precision: str | None
    why: str | None


@dataclass(frozen=True, kw_only=True)
class LayerErrors:
    """The layers of a variant in the order of the network.

    Attributes:
        variant: Its name.
        images: How many the errors were measured on.
        layers: The quantized ones.
    """

    variant: str
    images: int
    layers: tuple[LayerError, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All of a closer look; None where it could not be had.

    Attributes:
        scores: Of all variants.
        photos: Of one.
        layers: Of the same one.
    """

    scores: DeployedScores | None = None
    photos: ChangedImages | None = None
    layers: LayerErrors | None = None
