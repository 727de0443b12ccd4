"""PicoDet, NanoDet and raw YOLOv8 heads: class scores, and four distances in cells, by stride."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.errors import ModelError
from quantcore.evaluation.decoding.anchor_free import AnchorFreeDecoding
from quantcore.evaluation.decoding.importance import of_class_scores, of_distributions
from quantcore.evaluation.decoding.pen import Pen
from quantcore.evaluation.decoding.prediction_grid import check_strides
from quantcore.evaluation.decoding.rows import (
    Index,
    RowDecoding,
    mismatch,
    promising,
    shapes_of,
    sigmoid_,
)
from quantcore.ir.decoding import DECODED, Shape
from quantcore.ir.model import Array
from quantcore.ir.values import flag, listed, number, text, whole

_ORDERS = ("pairs", "boxes_first", "scores_first")
_FORMS = ("maps", "rows", "columns")


#: Bins of a distribution; networks have 8 or 17.
_MOST_BINS = 1024


@dataclass(frozen=True)
class GflDecoding(RowDecoding):
    """Distance = sum of i * softmax(distribution)[i] cells, to the left, top, right and bottom.

    They count from the cell's point, (cell + shift) * stride. A distribution of one bin is the
    distance itself.

    Attributes:
        strides: Pixels per cell, finest first.
        bins: Length of a distribution, `reg_max + 1` in PicoDet and NanoDet.
        order: `pairs`, an output of class scores for each stride and then as many of
            distributions; or both in one output, `boxes_first` (YOLOv8) or `scores_first`.
        form: Of each output: `maps`, B x K x H x W, `rows`, B x cells x K, or `columns`,
            B x K x cells.
        merged: Whether one output holds the cells of all strides.
        shift: Where in its cell a prediction's point lies, in cells.
        sigmoid: Whether class scores still need it.
    """

    strides: tuple[int, ...]
    bins: int = 8
    order: str = "pairs"
    form: str = "rows"
    merged: bool = False
    shift: float = 0.5
    sigmoid: bool = False

    kind: ClassVar[str] = "gfl"

    def __post_init__(self) -> None:
        """Raises ModelError for strides or bins below 1, an unknown word, or maps merged."""
        check_strides(self.strides)
        if not 1 <= self.bins <= _MOST_BINS:
            raise ModelError(f"decoding: bins must be from 1 to {_MOST_BINS}, not {self.bins}")
        for name, known in (("order", _ORDERS), ("form", _FORMS)):
            if getattr(self, name) not in known:
                raise ModelError(
                    f"decoding: {name} must be {', '.join(known)}, not {getattr(self, name)!r}"
                )
        if self.merged and self.form == "maps":
            raise ModelError("decoding: maps of several strides cannot be one output")

    @property
    def heads(self) -> int:
        """One or two for each stride, or for all."""
        return self._parts * (2 if self.order == "pairs" else 1)

    @property
    def drawn(self) -> AnchorFreeDecoding:
        """See Decoding."""
        return AnchorFreeDecoding()

    def classes(self, shapes: Sequence[Shape], size: tuple[int, int]) -> int:
        """See Decoding."""
        if len(shapes) != self.heads:
            raise mismatch(f"{self.heads} heads", shapes)
        sides, boxes = self._sides(size), 4 * self.bins
        channels = [
            _channels(shape, self.form, sides[i % self._parts]) for i, shape in enumerate(shapes)
        ]
        if self.order == "pairs":
            counts = set(channels[: self._parts])
            fits = set(channels[self._parts :]) == {boxes}
        else:
            counts = {count - boxes for count in channels}
            fits = True
        if not fits or min(counts) < 1:
            cells = ", ".join(" x ".join(map(str, side)) for side in sides)
            raise mismatch(f"{self.form} of {cells} cells, {boxes} numbers for a box", shapes)
        if len(counts) > 1:
            raise mismatch("heads with the same number of classes", shapes)
        return counts.pop()

    def decode(self, outputs: Sequence[Array], size: tuple[int, int]) -> Array:
        """See Decoding: B x N x (4+C)."""
        parts = self._split(outputs, size)
        whole_ = [np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1)]
        images = zip(*whole_, strict=True)
        return np.stack([self._placed(s, d, slice(None), size) for s, d in images])

    def candidates(
        self, outputs: Sequence[Array], size: tuple[int, int], threshold: float
    ) -> Iterator[Array]:
        """See RowDecoding."""
        parts = self._split(outputs, size)
        starts = np.cumsum([0, *(part[0].shape[1] for part in parts)])
        for image in range(len(parts[0][0])):
            found = [promising(scores[image], self.sigmoid, threshold) for scores, _ in parts]
            taken = [(s[image, i], d[image, i]) for (s, d), i in zip(parts, found, strict=True)]
            scores, distances = (np.concatenate(each) for each in zip(*taken, strict=True))
            index = np.concatenate([i + start for i, start in zip(found, starts, strict=False)])
            rows = self._placed(scores, distances, index, size)
            yield np.insert(rows, 4, np.float32(1), axis=1)

    def draw(self, graph: onnx.GraphProto, heads: Sequence[str], size: tuple[int, int]) -> None:
        """See Decoding."""
        pen, boxes, last = Pen(graph), 4 * self.bins, np.iinfo(np.int64).max
        rows = [self._draw_rows(pen, head, i, size) for i, head in enumerate(heads)]
        if self.order == "pairs":
            scores = _joined(pen, rows[: self._parts], "scores")
            distances = _joined(pen, rows[self._parts :], "distances")
        else:
            all_ = _joined(pen, rows, "levels")
            at = (0, boxes) if self.order == "boxes_first" else (-boxes, last)
            distances = pen.columns(all_, "distances", *at)
            at = (boxes, last) if self.order == "boxes_first" else (0, -boxes)
            scores = pen.columns(all_, "scores", *at)
        if self.sigmoid:
            scores = pen.add("Sigmoid", [scores], "sigmoid")
        point, stride = _points(size, self.strides, self.shift)
        if self.bins > 1:
            shape = pen.constant("bins.shape", [0, len(point), 4, self.bins], np.int64)
            split = pen.add("Reshape", [distances, shape], "bins")
            split = pen.add("Softmax", [split], "softmax", axis=-1)
            steps = pen.constant("steps", np.arange(self.bins)[:, None], np.float32)
            shape = pen.constant("distance.shape", [0, len(point), 4], np.int64)
            mean = pen.add("MatMul", [split, steps], "mean")
            distances = pen.add("Reshape", [mean, shape], "distance")
        distances = pen.add("Mul", [distances, pen.constant("stride", stride, np.float32)], "sized")
        low, high = pen.columns(distances, "low", 0, 2), pen.columns(distances, "high", 2, 4)
        half = pen.add("Sub", [high, low], "difference")
        half = pen.add("Mul", [half, pen.constant("half", 0.5, np.float32)], "halved")
        center = pen.add("Add", [half, pen.constant("point", point, np.float32)], "center")
        extent = pen.add("Add", [low, high], "extent")
        pen.add("Concat", [center, extent, scores], "concat", DECODED, axis=-1)

    def importance(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[Array]:
        """See Decoding."""
        weights = [np.empty(output.shape, np.float32) for output in outputs]
        parts = zip(self._split(outputs, size), self._split(weights, size), strict=True)
        total = 0.0
        for (scores, distances), (by_class, by_bin) in parts:
            by_class[...], confidence = of_class_scores(scores, self.sigmoid)
            by_bin[...] = of_distributions(distances, self.bins, confidence)
            total += float(confidence.sum(dtype=np.float64))
        return [np.divide(weight, max(total, 1.0), dtype=np.float32) for weight in weights]

    def to_dict(self) -> dict[str, Any]:
        """See Decoding."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GflDecoding:
        """See Decoding."""
        return cls(
            tuple(whole(stride) for stride in listed(data["strides"])),
            whole(data["bins"]),
            text(data["order"]),
            text(data["form"]),
            flag(data["merged"]),
            number(data["shift"]),
            flag(data["sigmoid"]),
        )

    @property
    def _parts(self) -> int:
        """In how many outputs the cells come."""
        return 1 if self.merged else len(self.strides)

    def _sides(self, size: tuple[int, int]) -> list[tuple[int, ...]]:
        """For each part its (rows, columns) of cells; merged ones have only a number of cells."""
        sides = cell_grids(size, self.strides)
        return [(sum(h * w for h, w in sides),)] if self.merged else list(sides)

    def _split(self, outputs: Sequence[Array], size: tuple[int, int]) -> list[tuple[Array, Array]]:
        """For each part scores, B x cells x C, and distributions, B x cells x 4*bins."""
        self.classes(shapes_of(outputs), size)
        rows = [_as_rows(np.asarray(output, np.float32), self.form) for output in outputs]
        if self.order == "pairs":
            return list(zip(rows[: self._parts], rows[self._parts :], strict=True))
        boxes = 4 * self.bins
        if self.order == "boxes_first":
            return [(part[..., boxes:], part[..., :boxes]) for part in rows]
        return [(part[..., :-boxes], part[..., -boxes:]) for part in rows]

    def _placed(
        self, scores: Array, distances: Array, index: Index, size: tuple[int, int]
    ) -> Array:
        """Rows of centers, sizes and scores for some predictions, n x (4+C)."""
        point, stride = _points(size, self.strides, self.shift)
        rows: Array = np.empty((len(scores), 4 + scores.shape[1]), np.float32)
        rows[:, 4:] = scores
        if self.sigmoid:
            sigmoid_(rows[:, 4:])
        cells = _expected(distances, self.bins) * stride[index]
        low, high = cells[:, :2], cells[:, 2:]
        rows[:, :2] = point[index] + (high - low) * np.float32(0.5)
        rows[:, 2:4] = low + high
        return rows

    def _draw_rows(self, pen: Pen, head: str, number_: int, size: tuple[int, int]) -> str:
        """An output as B x cells x K."""
        if self.form == "rows":
            return head
        if self.form == "maps":
            height, width = cell_grids(size, self.strides)[number_ % self._parts]
            name = f"columns.{number_}"
            shape = pen.constant(f"{name}.shape", [0, -1, height * width], np.int64)
            head = pen.add("Reshape", [head, shape], name)
        return pen.add("Transpose", [head], f"rows.{number_}", perm=[0, 2, 1])


def cell_grids(size: tuple[int, int], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of cells for each stride; what does not fill a cell has one of its own."""
    return tuple((-(-size[0] // s), -(-size[1] // s)) for s in strides)


@lru_cache(maxsize=16)
def _points(size: tuple[int, int], strides: tuple[int, ...], shift: float) -> tuple[Array, Array]:
    """Points of all predictions, N x 2 in x and y, and their strides, N x 1, in pixels."""
    points, gains = [], []
    for stride, (height, width) in zip(strides, cell_grids(size, strides), strict=True):
        y, x = np.mgrid[:height, :width].reshape(2, 1, -1)
        points.append((np.stack([x, y], -1).reshape(-1, 2) + shift) * stride)
        gains.append(np.full((height * width, 1), stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(gains).astype(np.float32)


def _expected(distances: Array, bins: int) -> Array:
    """The four distances that distributions (n x 4*bins) come to, in cells."""
    if bins == 1:
        return distances
    split = distances.reshape(-1, 4, bins)
    weight = np.exp(split - split.max(axis=2, keepdims=True))
    steps = np.arange(bins, dtype=np.float32)
    expected: Array = (weight @ steps) / weight.sum(axis=2)
    return expected


def _channels(shape: Shape, form: str, sides: tuple[int, ...]) -> int:
    """K of an output; 0 where it is of another form, or has other cells."""
    if form == "maps":
        return shape[1] if len(shape) == 4 and shape[2:] == sides else 0
    cells, at = int(np.prod(sides)), (1, 2) if form == "rows" else (2, 1)
    return shape[at[1]] if len(shape) == 3 and shape[at[0]] == cells else 0


def _as_rows(output: npt.NDArray[np.float32], form: str) -> Array:
    """An output as B x cells x K, without a copy."""
    if form == "maps":
        output = output.reshape(*output.shape[:2], -1)
    return output if form == "rows" else output.transpose(0, 2, 1)


def _joined(pen: Pen, parts: Sequence[str], name: str) -> str:
    """The cells of all parts behind each other."""
    return pen.add("Concat", list(parts), f"{name}.joined", axis=1)
