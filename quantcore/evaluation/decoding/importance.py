"""How much an error in a detector's raw rows matters, by what the float network itself says.

An error of a logit moves a score by p (1 - p) times as much, so that is what it counts: where the
network is sure there is nothing, nothing is asked. Classes count where there is an object, boxes by
how likely they are to be kept. Weights are divided by the sum of the confidences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantcore.evaluation.decoding.rows import BEFORE_CLASSES
from quantcore.ir.model import Array

#: Least p (1 - p) that an error of a score is divided by. Where the network is sure there is
#: nothing, a false alarm is an error of a logit far from the one that the quotient stands for, and
#: would count a hundred times as much: almost all places are such, and drown the objects.
_LEAST = np.float32(0.1)


def of_logits(heads: Sequence[Array]) -> list[Array]:
    """Weights of raw heads.

    Args:
        heads: ... x (4 box values, objectness, classes); scores before the logistic function.
    """
    weights = []
    for head in heads:
        score = _sigmoid(head[..., BEFORE_CLASSES - 1 :])
        weight = np.empty(head.shape, np.float32)
        weight[..., BEFORE_CLASSES - 1 :] = score * (1 - score)
        weight[..., BEFORE_CLASSES:] *= score[..., :1]
        weight[..., : BEFORE_CLASSES - 1] = _confidence(score)
        weights.append(weight)
    return _shared(weights)


def of_scores(rows: Array, extents: Array | None = None) -> Array:
    """Weights of rows whose scores are probabilities already.

    Args:
        rows: ... x (4 box values, objectness, classes).
        extents: ... x 2, what the errors of a box are measured in; None where they are in units of
            their own.
    """
    score = np.clip(rows[..., BEFORE_CLASSES - 1 :], 0, 1)
    weight = np.empty(rows.shape, np.float32)
    # (dp / p (1 - p))**2 is the error of the logit that there is none of, p (1 - p) its weight.
    weight[..., BEFORE_CLASSES - 1 :] = 1 / np.maximum(score * (1 - score), _LEAST)
    weight[..., BEFORE_CLASSES:] *= score[..., :1]
    box: Array = _confidence(score)
    if extents is not None:
        box = np.tile(box / np.square(extents), 2).astype(np.float32)
    weight[..., : BEFORE_CLASSES - 1] = box
    total = max(float(_confidence(score).sum(dtype=np.float64)), 1.0)
    return np.divide(weight, total, dtype=np.float32)


def of_class_scores(scores: Array, logits: bool) -> tuple[Array, Array]:
    """Weights of scores of a detector without objectness, and of its boxes; not divided yet.

    Args:
        scores: ... x classes.
        logits: Whether they are before the logistic function.

    Returns:
        Of the shape of `scores`; and how likely each box is to be kept, ... x 1.
    """
    score = _sigmoid(scores) if logits else np.clip(scores, 0, 1)
    slope = score * (1 - score)
    weight: Array = slope if logits else 1 / np.maximum(slope, _LEAST)
    return weight, score.max(axis=-1, keepdims=True)


def of_distributions(logits: Array, bins: int, confidence: Array) -> Array:
    """Weights of the distributions that a box's four distances are means of; not divided yet.

    An error of a bin's logit moves its share by q (1 - q) times as much.

    Args:
        logits: ... x 4 * bins.
        bins: Of one distribution; 1 where the distance itself is said.
        confidence: How likely each box is to be kept, ... x 1.
    """
    if bins == 1:
        return np.broadcast_to(confidence, logits.shape)
    each = logits.reshape(*logits.shape[:-1], 4, bins)
    powers = np.exp(each - each.max(axis=-1, keepdims=True))
    share = powers / powers.sum(axis=-1, keepdims=True)
    found: Array = (share * (1 - share)).reshape(logits.shape) * confidence
    return found


def _confidence(score: Array) -> Array:
    """Objectness times the best class, ... x 1."""
    found: Array = score[..., :1] * score[..., 1:].max(axis=-1, keepdims=True)
    return found


def _shared(weights: list[Array]) -> list[Array]:
    total = sum(float(w[..., :1].sum(dtype=np.float64)) for w in weights)
    return [np.divide(weight, max(total, 1.0), dtype=np.float32) for weight in weights]


def _sigmoid(values: Array) -> Array:
    with np.errstate(over="ignore"):
        found: Array = np.reciprocal(1 + np.exp(-values), dtype=np.float32)
    return found
