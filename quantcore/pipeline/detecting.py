"""What a graph finds in pictures of one's own, and what of the float model's it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantcore.contracts.engine import Engine
from quantcore.data.images import Pixels
from quantcore.data.letterbox import letterbox
from quantcore.evaluation.evaluator import infer
from quantcore.evaluation.finding import find_predictions
from quantcore.evaluation.matching import matches
from quantcore.evaluation.tasks import task_of
from quantcore.evaluation.tasks.detection import Detection
from quantcore.ir.decoding import Limits
from quantcore.ir.model import Array, FloatModel
from quantcore.results.pictures import Picture, Sight

#: Below the threshold so much more is looked at, to tell what became of a lost box.
_FAINT = 0.2


@dataclass(frozen=True)
class Detector:
    """Finds things in pictures, with one graph or with two that are held against each other.

    Attributes:
        model: Says how images go in and what comes out.
        engine: Runs the graph, float or Q/DQ, raw heads or decoded.
        against: Runs the float graph; None for nothing to compare with.
        conf: Boxes must score higher.
    """

    model: FloatModel
    engine: Engine
    against: Engine | None = None
    conf: float = 0.25

    def look(self, pixels: Pixels, file: str, frame: int | None = None) -> Picture:
        """What is found in a picture.

        Args:
            pixels: H x W x 3, BGR.
            file: Its name.
            frame: In a video.

        Raises:
            ModelError: The outputs do not fit the model's decoding.
            EngineError: An engine failed.
        """
        mine = self._find(self.engine, pixels)
        about = {"file": file, "frame": frame, "width": pixels.shape[1], "height": pixels.shape[0]}
        found = self._sights(self._clear(mine))
        if self.against is None:
            return Picture(**about, found=found)
        theirs = self._find(self.against, pixels)
        return Picture(
            **about,
            found=found,
            reference=self._sights(self._clear(theirs)),
            lost=self._only(theirs, mine),
            gained=self._only(mine, theirs),
        )

    @property
    def _boxes(self) -> bool:
        return isinstance(task_of(self.model), Detection)

    def _find(self, engine: Engine, pixels: Pixels) -> Array:
        """Boxes, faint ones too, or for a classifier its best class as one row without a place."""
        image, placement = letterbox(pixels, self.model.preprocessing)
        outputs = infer(engine, image[None], engine.input_shape[0] or 1)
        limits = Limits(conf=self.conf * _FAINT)
        (found,) = find_predictions(outputs, self.model, [placement], limits)
        if self._boxes:
            return found[np.argsort(-found[:, 4], kind="stable")]
        best = int(np.argmax(found))
        height, width = pixels.shape[:2]
        return np.asarray([[0, 0, width, height, found[best], best]], np.float32)

    def _clear(self, found: Array) -> Array:
        return found[found[:, 4] > self.conf] if self._boxes else found

    def _only(self, first: Array, second: Array) -> tuple[Sight, ...]:
        """What is clearly in one and not clearly in the other; what that has there instead."""
        clear = self._clear(first)
        in_clear = matches(clear, self._clear(second))
        missing = clear[in_clear < 0]
        faint = matches(missing, second)
        others = [float(second[n, 4]) if n >= 0 else None for n in faint]
        return self._sights(missing, others)

    def _sights(
        self, found: Array, others: Sequence[float | None] | None = None
    ) -> tuple[Sight, ...]:
        names = self.model.class_names
        return tuple(
            Sight(
                name=names[int(row[5])],
                class_index=int(row[5]),
                score=round(float(row[4]), 4),
                box=tuple(round(float(v), 1) for v in row[:4]) if self._boxes else None,  # type: ignore[arg-type] # four of them
                other_score=None if other is None else round(other, 4),
            )
            for row, other in zip(found, others or [None] * len(found), strict=True)
        )
