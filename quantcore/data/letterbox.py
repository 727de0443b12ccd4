"""Letterbox: an image into a network input of fixed size, and boxes back again."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from quantcore.data.images import Pixels
from quantcore.ir.model import Array, Preprocessing


@dataclass(frozen=True)
class Placement:
    """Where in the network input an image lies.

    Attributes:
        scale: Network pixels per original pixel.
        left: Grey columns left of the image.
        top: Grey rows above it.
        size: (height, width) of the original image in pixels.
    """

    scale: float
    left: int
    top: int
    size: tuple[int, int]

    def to_original(self, boxes: Array) -> Array:
        """Maps boxes back to the image.

        Args:
            boxes: n x 4, x1, y1, x2, y2 in network pixels.

        Returns:
            n x 4, x1, y1, x2, y2 in pixels of the original image, clipped to it.
        """
        height, width = self.size
        offset = np.array([self.left, self.top] * 2, np.float32)
        limit = np.array([width, height] * 2, np.float32)
        mapped: Array = np.clip((boxes - offset) / np.float32(self.scale), np.float32(0), limit)
        return mapped


def place(size: tuple[int, int], preprocessing: Preprocessing) -> Placement:
    """Where an image of `size` (height, width) lies in the network input."""
    (height, width), (new_height, new_width) = size, _resized(size, preprocessing)
    net_height, net_width = preprocessing.size
    left = top = 0
    if preprocessing.placement == "center":
        # The odd pixel goes to the right and to the bottom, as where YOLOv5 was trained.
        left = round((net_width - new_width) / 2 - 0.1)
        top = round((net_height - new_height) / 2 - 0.1)
    return Placement(min(net_height / height, net_width / width), left, top, size)


def letterbox(image: Pixels, preprocessing: Preprocessing) -> tuple[Array, Placement]:
    """Makes a network input of an image.

    Args:
        image: H x W x 3, BGR, 0..255.
        preprocessing: The model's.

    Returns:
        The input, 3 x h x w, and where the image lies in it.
    """
    size = (int(image.shape[0]), int(image.shape[1]))
    placement = place(size, preprocessing)
    height, width = _resized(size, preprocessing)
    if size != (height, width):
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    canvas = np.full((*preprocessing.size, 3), preprocessing.pad_value, np.uint8)
    canvas[placement.top : placement.top + height, placement.left : placement.left + width] = image
    if preprocessing.channels == "rgb":
        canvas = np.asarray(cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB))
    pixels = np.empty((3, *preprocessing.size), np.float32)
    np.multiply(canvas.transpose(2, 0, 1), np.float32(preprocessing.scale), out=pixels)
    return pixels, placement


def _resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) of the image inside the network input; at least one pixel."""
    (height, width), (net_height, net_width) = size, preprocessing.size
    ratio = min(net_height / height, net_width / width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))
