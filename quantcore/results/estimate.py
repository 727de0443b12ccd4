"""Figures with their intervals: estimates, losses, correlations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.errors import UsageError
from quantcore.runtime.plain import plain

#: The share of the draws that an interval spans, and how many draws a report takes.
LEVEL = 0.9


DRAWS = 1000


Floats = npt.NDArray[np.float64]


def draws(images: int, count: int = 200, seed: int = 0) -> Floats:
    """Weights of a bootstrap: the images as they are, then `count` draws with replacement."""
    random = np.random.default_rng(seed)
    picks = random.multinomial(images, np.full(images, 1 / images), size=count)
    return np.concatenate([np.ones((1, images)), picks.astype(np.float64)])


def interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of some draws; NaN where there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A figure with the middle of its bootstrap draws over the images.

    Attributes:
        value: On the images as they are.
        low: Lower end of the interval.
        high: Upper end.
        level: The share of the draws between them.
        draws: How many there were.
    """

    value: float
    low: float
    high: float
    _: KW_ONLY
    level: float = LEVEL
    draws: int = DRAWS

    def __neg__(self) -> Estimate:
        """The same the other way round: a drop as a change."""
        # Not `-x`, which makes a negative zero of zero.
        return replace(self, value=0 - self.value, low=0 - self.high, high=0 - self.low)

    @classmethod
    def of(cls, values: Floats) -> Estimate:
        """From a figure on the images as they are, followed by one for each draw."""
        return cls(float(values[0]), *interval(values[1:]), draws=len(values) - 1)


@dataclass(frozen=True)
class FigureDraws:
    """The main figure of one graph under a bootstrap of its images.

    The draws depend on the number of images alone. Two graphs on the same images are therefore
    paired: they see the same images in each draw, so that what is hard about an image cancels out.

    Attributes:
        images: SHA-256 of the ids of the images, in the data set's order.
        values: The figure on the images as they are, then one a draw; NaN without ground truth.
        figure: Its name, as `Metric.name`.
    """

    images: str
    values: tuple[float, ...]
    figure: str

    @property
    def estimate(self) -> Estimate:
        """The figure itself."""
        return Estimate.of(np.asarray(self.values))

    def against(self, reference: FigureDraws) -> Estimate:
        """The figure less a reference's: negative where this graph is worse.

        Raises:
            UsageError: The two are not of the same figure, images and draws.
        """
        mine, theirs = ((d.figure, d.images, len(d.values)) for d in (self, reference))
        if mine != theirs:
            raise UsageError(
                f"a difference in {self.figure} needs two evaluations on the same images and with "
                "the same number of draws: evaluate both on the same split with the same --images"
            )
        return Estimate.of(np.asarray(self.values) - np.asarray(reference.values))

    def to_dict(self) -> dict[str, Any]:
        """JSON form; None stands for NaN."""
        return plain({"images_sha256": self.images, self.figure: self.values})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], figure: str) -> FigureDraws:
        """Reads the JSON form; raises KeyError, TypeError or ValueError where it is malformed."""
        values = (float("nan") if value is None else float(value) for value in data[figure])
        return cls(str(data["images_sha256"]), tuple(values), figure)


@dataclass(frozen=True)
class Correlation:
    """A rank correlation, -1..1, with the middle 90 % of its bootstrap draws."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Loss:
    """What a graph loses against the float model.

    Attributes:
        drop: The main figure of the float model less the graph's; NaN without labels.
        disagreement: 1 - agreement with what the float model finds, 0..1, no labels needed.
        heads_db: SQNR of the raw heads over all images; NaN where not measured.
        layer_db: SQNR of the one quantized layer's output; likewise.
    """

    drop: Estimate
    disagreement: Estimate
    heads_db: float
    layer_db: float


@dataclass(frozen=True)
class Neighbours:
    """What a table's graph and its neighbours lose.

    Attributes:
        differences: The main figure less the float model's on the same images; the table's own
            graph first.
    """

    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the differences."""
        return float(np.mean(self.differences))

    @property
    def error(self) -> float:
        """Standard error of the mean; it holds the draw of the graph, not that of the images.

        NaN where there is one graph.
        """
        if len(self.differences) < 2:
            return math.nan
        return float(np.std(self.differences, ddof=1) / len(self.differences) ** 0.5)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; None stands for NaN."""
        return plain({"mean": self.mean, "error": self.error, "differences": self.differences})
