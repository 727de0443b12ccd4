"""Presets of classifiers, whose one output is B x C: how images go in, their files do not say."""

from __future__ import annotations

from collections.abc import Callable

from quantcore.evaluation.decoding.classes import ClassScores
from quantcore.ir.decoding import Decoding
from quantcore.ir.model import Preprocessing
from quantcore_onnx.ends import Ends, Heads, Preset

#: Behind these the scores are ready to be read.
_READY = ("Softmax", "Sigmoid")

#: Of ImageNet's pixels from 0 to 1, RGB; torchvision, timm and most others train with them.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _imagenet_looks(size: tuple[int, int]) -> Preprocessing:
    """As torchvision evaluates: 224 pixels out of the middle of 256.

    Pillow averages where it makes an image smaller; `area` comes nearest to that.
    """
    return Preprocessing(size, fit="crop", crop=0.875, mean=_MEAN, std=_STD, interpolation="area")


def _plain_looks(size: tuple[int, int]) -> Preprocessing:
    """Pixels from 0 to 1 out of the middle, no more cut off than must be: as Ultralytics does."""
    return Preprocessing(size, fit="crop", interpolation="area")


def _preset(looks: Callable[[tuple[int, int]], Preprocessing]) -> Preset:
    def find(ends: Ends) -> Heads | None:
        (name, shape), *others = ends.outputs.items()
        count = shape[1] if len(shape) > 1 else 0
        if others or count < 2 or set(shape[2:]) - {1} or not ends.names_as_many(count):
            return None
        last = ends.behind(name)
        softmax = last is None or last.op_type not in _READY
        return Heads((name,), ClassScores(softmax), count, looks(ends.size))

    return Preset(
        wanted="one output B x classes",
        find=find,
        preprocessings=lambda size: (looks(size),),
        reads=_reads,
    )


def _reads(decoding: Decoding) -> bool:
    return isinstance(decoding, ClassScores)


IMAGENET = _preset(_imagenet_looks)
CLASSIFIER = _preset(_plain_looks)
