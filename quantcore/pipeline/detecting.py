"""What a graph finds in pictures of one's own, and what of the float model's it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        theirs = self._find(self.against, pixels) if self.against else None
        mine = self._find(self.engine, pixels)
        size = (pixels.shape[1], pixels.shape[0])
        return picture_of(self.model, mine, theirs, self.conf, file, size, frame)

    def _find(self, engine: Engine, pixels: Pixels) -> Array:
        """Boxes, faint ones too, or for a classifier its best class as one row without a place."""
        image, placement = letterbox(pixels, self.model.preprocessing)
        outputs = infer(engine, image[None], engine.input_shape[0] or 1)
        limits = Limits(conf=self.conf * _FAINT)
        (found,) = find_predictions(outputs, self.model, [placement], limits)
        if _finds_boxes(self.model):
            return found[np.argsort(-found[:, 4], kind="stable")]
        best = int(np.argmax(found))
        height, width = pixels.shape[:2]
        return np.asarray([[0, 0, width, height, found[best], best]], np.float32)


def picture_of(
    model: FloatModel,
    mine: Array,
    theirs: Array | None,
    conf: float,
    file: str,
    size: tuple[int, int],
    frame: int | None = None,
) -> Picture:
    """What was found in a picture by name, and where float's is given, what was lost and gained.

    Args:
        model: Names the classes.
        mine: n x 6, faint ones too, best first.
        theirs: Of the float network; None for nothing to compare with.
        conf: What scores higher is clearly there.
        file: Name of the picture.
        size: (width, height) in pixels.
        frame: In a video.
    """
    boxes = _finds_boxes(model)
    clear = [None if f is None else f[f[:, 4] > conf] if boxes else f for f in (mine, theirs)]
    assert clear[0] is not None
    found = _sights(model, clear[0])
    picture = Picture(file=file, frame=frame, width=size[0], height=size[1], found=found)
    if theirs is None or clear[1] is None:
        return picture
    return replace(
        picture,
        reference=_sights(model, clear[1]),
        lost=_only(model, clear[1], clear[0], mine),
        gained=_only(model, clear[0], clear[1], theirs),
    )


def _finds_boxes(model: FloatModel) -> bool:
    return isinstance(task_of(model), Detection)


def _only(model: FloatModel, clear: Array, others: Array, faint: Array) -> tuple[Sight, ...]:
    """What is clearly in one and not clearly in the other; how faintly it is there."""
    missing = clear[matches(clear, others) < 0]
    pairs = matches(missing, faint)
    return _sights(model, missing, [float(faint[n, 4]) if n >= 0 else None for n in pairs])


def _sights(
    model: FloatModel, found: Array, others: Sequence[float | None] | None = None
) -> tuple[Sight, ...]:
    boxes = _finds_boxes(model)
    return tuple(
        Sight(
            name=model.class_names[int(row[5])],
            class_index=int(row[5]),
            score=round(float(row[4]), 4),
            box=(_pixel(row[0]), _pixel(row[1]), _pixel(row[2]), _pixel(row[3])) if boxes else None,
            other_score=None if other is None else round(other, 4),
        )
        for row, other in zip(found, others or [None] * len(found), strict=True)
    )


def _pixel(value: float) -> float:
    return round(float(value), 1)
