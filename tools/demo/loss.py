"""Training loss of the demo detector: target assignment, box, objectness and class terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A box may be matched to an anchor that differs by less than this factor in both directions;
# the decoding cannot stretch an anchor further than four times.
MAX_RATIO = 4.0

_BOX_WEIGHT = 3.0
_CLASS_WEIGHT = 6.0
_OBJECT_WEIGHT = 30.0

# A fine level has more empty cells than a coarse one, so its mean is the smaller one.
_LEVEL_WEIGHTS = (4.0, 1.0, 0.4)


@dataclass(frozen=True)
class Matches:
    """Cells of one level that answer for a box.

    Attributes:
        image: Image index in the batch, ``(n,)``.
        anchor: Anchor index, ``(n,)``.
        row: Cell row, ``(n,)``.
        column: Cell column, ``(n,)``.
        box: Target centre relative to the cell, then size, in grid units, ``(n, 4)``.
        label: Class index, ``(n,)``.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    label: Tensor


def match(targets: Tensor, anchors: Tensor, stride: int, height: int, width: int) -> Matches:
    """Assign boxes to the anchors and cells of one level.

    Every box goes to each anchor of a similar size, in the cell of its centre and in the two
    neighbours that the centre is closest to.

    Args:
        targets: ``(n, 6)`` rows of image index, class, centre, width and height in pixels.
        anchors: Anchors of the level in grid units, ``(anchors, 2)``.
        stride: Pixels per cell.
        height: Rows of the level.
        width: Columns of the level.

    Returns:
        The matched cells.
    """
    scaled = targets[:, 2:] / stride
    ratio = scaled[:, None, 2:] / anchors[None]
    similar = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < MAX_RATIO
    which, anchor = similar.nonzero(as_tuple=True)
    centre = scaled[which, :2]
    home = centre.floor()
    toward = torch.where(centre - home < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(toward[:, 0])
    beside = torch.stack([toward[:, 0], zero], dim=-1)
    above = torch.stack([zero, toward[:, 1]], dim=-1)
    cells = torch.cat([home, home + beside, home + above])
    which, anchor, centre = which.repeat(3), anchor.repeat(3), centre.repeat(3, 1)
    limit = torch.tensor([width, height])
    inside = ((cells >= 0) & (cells < limit)).all(dim=-1)
    which, anchor, centre, cells = which[inside], anchor[inside], centre[inside], cells[inside]
    return Matches(
        image=targets[which, 0].long(),
        anchor=anchor,
        row=cells[:, 1].long(),
        column=cells[:, 0].long(),
        box=torch.cat([centre - cells, scaled[which, 2:]], dim=-1),
        label=targets[which, 1].long(),
    )


def _corners(box: Tensor) -> tuple[Tensor, Tensor]:
    """Split centre boxes into their lower and upper corners."""
    half = box[:, 2:] / 2
    return box[:, :2] - half, box[:, :2] + half


def complete_iou(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Compare boxes pairwise.

    Args:
        first: Predicted boxes as centre and size, ``(n, 4)``.
        second: Target boxes as centre and size, ``(n, 4)``.

    Returns:
        The IoU and the complete IoU, which also punishes a distance between the centres and a
        difference between the aspect ratios; each ``(n,)``.
    """
    low_a, high_a = _corners(first)
    low_b, high_b = _corners(second)
    overlap = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    union = first[:, 2:].prod(-1) + second[:, 2:].prod(-1) - overlap
    iou = overlap / (union + 1e-7)
    hull = torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)
    distance = (first[:, :2] - second[:, :2]).square().sum(-1)
    distance = distance / (hull.square().sum(-1) + 1e-7)
    angle = torch.atan2(second[:, 2], second[:, 3]) - torch.atan2(first[:, 2], first[:, 3])
    shape = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        trade = shape / (1 - iou + shape + 1e-7)
    return iou, iou - distance - trade * shape


def _level_loss(raw: Tensor, anchors: Tensor, targets: Tensor, stride: int) -> list[Tensor]:
    """Compute the box, objectness and class terms of one level.

    Args:
        raw: Raw map of the level.
        anchors: Anchors of the level in grid units.
        targets: Boxes of the batch, as for ``match``.
        stride: Pixels per cell.

    Returns:
        The three terms.
    """
    batch, channels, height, width = raw.shape
    values = raw.view(batch, len(anchors), channels // len(anchors), height, width)
    found = match(targets, anchors, stride, height, width)
    wanted = torch.zeros(batch, len(anchors), height, width)
    box_term = class_term = raw.sum() * 0
    if len(found.image):
        chosen = values[found.image, found.anchor, :, found.row, found.column]
        centre = 2 * chosen[:, :2].sigmoid() - 0.5
        size = (2 * chosen[:, 2:4].sigmoid()) ** 2 * anchors[found.anchor]
        iou, complete = complete_iou(torch.cat([centre, size], dim=-1), found.box)
        box_term = (1 - complete).mean()
        truth = F.one_hot(found.label, chosen.shape[1] - 5).to(chosen)
        class_term = F.binary_cross_entropy_with_logits(chosen[:, 5:], truth)
        # Two boxes may claim one cell; the better prediction then decides what it should say.
        cell = (found.image * len(anchors) + found.anchor) * height + found.row
        cell = cell * width + found.column
        quality = iou.detach().clamp(min=0)
        wanted.view(-1).scatter_reduce_(0, cell, quality, reduce="amax")
    return [box_term, F.binary_cross_entropy_with_logits(values[:, :, 4], wanted), class_term]


def detection_loss(
    maps: list[Tensor], anchors: Tensor, targets: Tensor, strides: tuple[int, ...]
) -> Tensor:
    """Compute the training loss of a batch.

    Args:
        maps: Raw maps of the levels.
        anchors: Anchors in grid units, ``(levels, anchors, 2)``.
        targets: ``(n, 6)`` rows of image index, class, centre, width and height in pixels.
        strides: Pixels per cell of each level.

    Returns:
        The weighted sum of all terms.
    """
    total = torch.zeros(())
    levels = zip(maps, anchors, strides, _LEVEL_WEIGHTS, strict=True)
    for raw, level_anchors, stride, weight in levels:
        box, objectness, label = _level_loss(raw, level_anchors, targets, stride)
        total = total + _BOX_WEIGHT * box + _CLASS_WEIGHT * label
        total = total + _OBJECT_WEIGHT * weight * objectness
    return total
