"""What one pass over the data leaves behind of a tensor; every observer reads its range from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantcore.errors import TableError
from quantcore.ir.values import listed, mapping, number, whole
from quantcore.showing import shown
from quantcore.table.histogram import Histogram
from quantcore.table.packing import pack_array, unpack_array

#: More images than any calibration reads; bounds what a table can make this unpack.
_MOST_IMAGES = 1 << 24


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
        extremes: Smallest and largest value of each image that had any, in order, from which every
            moving average can be found later: float32 numbers, 8 bytes an image. None where they
            are not kept.
    """

    minimum: float = math.inf
    maximum: float = -math.inf
    images: int = 0
    histogram: Histogram | None = None
    averages: dict[float, Average] = field(default_factory=dict)
    extremes: list[tuple[float, float]] | None = None

    @classmethod
    def watching(
        cls, histogram: bool, momenta: Iterable[float], extremes: bool = False
    ) -> Statistics:
        """Empty statistics that will keep what the observers need."""
        found = cls(averages={m: Average(m) for m in momenta})
        found.histogram = Histogram() if histogram else None
        found.extremes = [] if extremes else None
        return found

    @property
    def empty(self) -> bool:
        """Whether no value was seen."""
        return self.minimum > self.maximum

    @property
    def amax(self) -> float:
        """Largest magnitude seen."""
        return 0.0 if self.empty else max(abs(self.minimum), abs(self.maximum))

    def add(self, low: float, high: float) -> None:
        """Takes in the extremes of the next image; reversed ones mean that it had no value."""
        self.images += 1
        if low <= high:
            self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
            for average in self.averages.values():
                average.add(low, high)
            if self.extremes is not None:
                self.extremes.append((low, high))

    def average(self, momentum: float) -> Average | None:
        """The moving average with a momentum, bit for bit as if it had been watched all along."""
        if momentum in self.averages or self.extremes is None:
            return self.averages.get(momentum)
        found = Average(momentum)
        for low, high in self.extremes:
            found.add(low, high)
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "min": None if self.empty else self.minimum,
            "max": None if self.empty else self.maximum,
            "images": self.images,
            "histogram": self.histogram.to_dict() if self.histogram else None,
            "averages": [vars(a) for a in self.averages.values()],
            "extremes": self._packed_extremes(),
        }

    def _packed_extremes(self) -> str | None:
        if self.extremes is None:
            return None
        return pack_array(np.array(self.extremes, np.float32).reshape(-1))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Statistics:
        """Reads the JSON form; raises TableError."""
        try:
            averages = {a.momentum: a for a in map(_average, listed(data["averages"]))}
            found = cls(images=whole(data["images"]), averages=averages)
            if data["min"] is not None:
                found.minimum, found.maximum = (float(number(data[end])) for end in ("min", "max"))
            if data["histogram"] is not None:
                found.histogram = Histogram.from_dict(data["histogram"])
            if data.get("extremes") is not None:
                ends = unpack_array(data["extremes"], np.float32, 2 * _MOST_IMAGES)
                found.extremes = [(float(a), float(b)) for a, b in ends.reshape(-1, 2)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TableError(f"malformed statistics: {shown(error)}") from None
        found._check()
        return found

    def _check(self) -> None:
        """Refuses statistics that no images can have left; raises TableError."""
        own = (self.minimum, self.maximum)
        ends = [] if self.empty else list(own)
        ends += [end for average in self.averages.values() for end in (average.low, average.high)]
        seen = self.histogram
        clash = seen is not None and (seen.minimum, seen.maximum) != own
        if self.extremes is not None:
            lows, highs = ([pair[side] for pair in self.extremes] for side in (0, 1))
            clash |= (min(lows, default=math.inf), max(highs, default=-math.inf)) != own
            clash |= any(low > high for low, high in self.extremes)
        if clash or not all(map(math.isfinite, ends)):
            raise TableError("malformed statistics: extremes contradict each other")


def _average(data: Any) -> Average:
    """A moving average from its JSON form; raises TypeError, ValueError or KeyError."""
    values: dict[str, Any] = {key: number(value) for key, value in mapping(data).items()}
    found = Average(**{**values, "images": whole(data["images"])})
    if not 0 <= found.momentum < 1:
        raise ValueError("momentum must lie in [0, 1)")
    return found
