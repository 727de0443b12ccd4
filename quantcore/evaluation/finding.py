"""The one way from what an engine returns to the boxes in the original images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantcore.data.letterbox import Placement
from quantcore.errors import ModelError
from quantcore.ir.decoding import DECODED, LIMITS, Decoding, Limits
from quantcore.ir.model import Array, FloatModel


def find_boxes(
    outputs: Mapping[str, Array],
    model: FloatModel,
    placements: Sequence[Placement],
    limits: Limits = LIMITS,
) -> list[Array]:
    """Detections in each image of a batch.

    Args:
        outputs: By name, of any graph of the model; where that decodes by itself, the rest is done.
        model: Says how boxes come out, and which classes there are.
        placements: Where each image lies in the network input.
        limits: Which boxes count.

    Returns:
        For each image n x 6, best first: x1, y1, x2, y2 in original pixels, score, class index.

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
    for kept, placement in zip(found, placements, strict=True):
        if len(kept) and kept[:, 5].max() >= len(model.class_names):
            raise ModelError(
                f"{model.name}: the network found a class {int(kept[:, 5].max())}, the model names "
                f"0 to {len(model.class_names) - 1}; give the names of all its classes"
            )
        kept[:, :4] = placement.to_original(kept[:, :4])
    return found


def _heads(outputs: Mapping[str, Array], model: FloatModel) -> tuple[Decoding, list[Array]]:
    """What is left to decode of an engine's outputs, and those outputs in the decoding's order."""
    if set(model.output_names) <= outputs.keys():
        # An engine may list outputs in its own order.
        return model.decoding, [outputs[name] for name in model.output_names]
    if tuple(outputs) == (DECODED,):
        return model.decoding.drawn, [outputs[DECODED]]
    return model.decoding, list(outputs.values())
