"""What one pass over the data leaves behind of a tensor; every observer reads its range from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcore.calibration.histogram import Histogram
from quantcore.errors import TableError


@dataclass
class Average:
    """Moving averages of the extremes of each image.

    The first image sets them; each later one gives m <- momentum * m + (1 - momentum) * value, in
    float64. An image whose tensor is empty leaves them alone.

    Attributes:
        momentum: Weight of the past.
        low: Average of the smallest values.
        high: Average of the largest values.
        amax: Average of the largest magnitudes.
        images: How many were averaged.
    """

    momentum: float
    low: float = 0.0
    high: float = 0.0
    amax: float = 0.0
    images: int = 0

    def add(self, low: float, high: float) -> None:
        """Takes in the extremes of the next image."""
        past = self.momentum if self.images else 0.0
        new = 1.0 - past
        self.low = past * self.low + new * low
        self.high = past * self.high + new * high
        self.amax = past * self.amax + new * max(abs(low), abs(high))
        self.images += 1


@dataclass
class Statistics:
    """Of one tensor, or of one channel.

    Attributes:
        minimum: Smallest value seen, exactly; inf before the first.
        maximum: Largest value seen, exactly; -inf before the first.
        images: Images seen, also those where the tensor was empty.
        histogram: None where only extremes are watched.
        averages: By momentum.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    images: int = 0
    histogram: Histogram | None = None
    averages: dict[float, Average] = field(default_factory=dict)

    @classmethod
    def watching(cls, histogram: bool, momenta: Iterable[float]) -> Statistics:
        """Empty statistics that will keep what the observers need."""
        averages = {m: Average(m) for m in momenta}
        return cls(histogram=Histogram() if histogram else None, averages=averages)

    @property
    def empty(self) -> bool:
        """Whether no value was seen."""
        return self.minimum > self.maximum

    @property
    def amax(self) -> float:
        """Largest magnitude seen."""
        return 0.0 if self.empty else max(abs(self.minimum), abs(self.maximum))

    def add(self, images: int, low: float, high: float) -> None:
        """Takes in the extremes of the next images; reversed ones mean that there was no value.

        Where averages are kept, images come one by one.
        """
        self.images += images
        if low <= high:
            self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
            for average in self.averages.values():
                average.add(low, high)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "min": None if self.empty else self.minimum,
            "max": None if self.empty else self.maximum,
            "images": self.images,
            "histogram": self.histogram.to_dict() if self.histogram else None,
            "averages": [vars(a) for a in self.averages.values()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Statistics:
        """Reads the JSON form; raises TableError."""
        try:
            averages = {float(a["momentum"]): Average(**a) for a in data["averages"]}
            found = cls(images=int(data["images"]), averages=averages)
            if data["min"] is not None:
                found.minimum, found.maximum = float(data["min"]), float(data["max"])
            if data["histogram"] is not None:
                found.histogram = Histogram.from_dict(data["histogram"])
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"malformed statistics: {error!r}") from None
        return found
