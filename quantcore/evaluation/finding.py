"""The one way from what an engine returns to what is found in the original images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantcore.data.letterbox import Placement
from quantcore.errors import ModelError
from quantcore.evaluation.tasks import task_of
from quantcore.ir.decoding import LIMITS, Decoding, Limits
from quantcore.ir.model import Array, FloatModel


def find_predictions(
    outputs: Mapping[str, Array],
    model: FloatModel,
    placements: Sequence[Placement],
    limits: Limits = LIMITS,
) -> list[Array]:
    """What is found in each image of a batch: the model's decoding, in the images' own pixels.

    Args:
        outputs: By name, of any graph of the model; where that decodes by itself, the rest is done.
        model: Says how outputs are decoded, and which classes there are.
        placements: Where each image lies in the network input.
        limits: Which boxes count.

    Returns:
        For each image what its task keeps; see `Predictions.by_image`.

    Raises:
        ModelError: The outputs do not fit the model's decoding, or score other classes.
    """
    decoding, heads = _heads(outputs, model)
    size = model.preprocessing.size
    classes = decoding.classes([head.shape for head in heads], size)
    if classes not in (None, len(model.class_names)):
        raise ModelError(
            f"{model.name}: the network scores {classes} classes, the model names "
            f"{len(model.class_names)}"
        )
    found = decoding.detect(heads, size, limits)
    task_of(model).place(found, placements, model)
    return found


def _heads(outputs: Mapping[str, Array], model: FloatModel) -> tuple[Decoding, list[Array]]:
    """What is left to decode of an engine's outputs, and those outputs in the decoding's order."""
    if set(model.output_names) <= outputs.keys():
        # An engine may list outputs in its own order.
        return model.decoding, [outputs[name] for name in model.output_names]
    name = model.decoding.output
    if tuple(outputs) == (name,):
        return model.decoding.drawn, [outputs[name]]
    return model.decoding, list(outputs.values())
