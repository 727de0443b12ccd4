"""An image into a network input of fixed size, letterboxed or stretched, and boxes back again."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from quantcore.data.images import Pixels
from quantcore.ir.model import Array, Preprocessing

#: What OpenCV calls the ways to resize.
_INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Placement:
    """Where in the network input an image lies.

    Attributes:
        scale: Network pixels per original pixel, in x and in y; two where an image is stretched.
        left: Grey columns left of the image.
        top: Grey rows above it.
        size: (height, width) of the original image in pixels.
    """

    scale: tuple[float, float]
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
        scale = np.array(self.scale * 2, np.float32)
        mapped: Array = np.clip((boxes - offset) / scale, np.float32(0), limit)
        return mapped


def place(size: tuple[int, int], preprocessing: Preprocessing) -> Placement:
    """Where an image of `size` (height, width) lies in the network input."""
    (height, width), (new_height, new_width) = size, _resized(size, preprocessing)
    net_height, net_width = preprocessing.size
    left = top = 0
    if preprocessing.fit == "letterbox" and preprocessing.placement == "center":
        # The odd pixel goes to the right and to the bottom, as where YOLOv5 was trained.
        left = round((net_width - new_width) / 2 - 0.1)
        top = round((net_height - new_height) / 2 - 0.1)
    scale = (net_width / width, net_height / height)
    if preprocessing.fit == "letterbox":
        scale = (min(scale), min(scale))
    return Placement(scale, left, top, size)


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
        way = _INTERPOLATIONS[preprocessing.interpolation]
        image = np.asarray(cv2.resize(image, (width, height), interpolation=way))
    canvas = np.full((*preprocessing.size, 3), preprocessing.pad_value, np.uint8)
    canvas[placement.top : placement.top + height, placement.left : placement.left + width] = image
    if preprocessing.channels == "rgb":
        canvas = np.asarray(cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB))
    pixels = np.empty((3, *preprocessing.size), np.float32)
    np.multiply(canvas.transpose(2, 0, 1), np.float32(preprocessing.scale), out=pixels)
    _normalise(pixels, preprocessing)
    return pixels, placement


def _normalise(pixels: Array, preprocessing: Preprocessing) -> None:
    """Takes off the mean and divides by the deviation of each channel, in place."""
    for values, mean, std in zip(pixels, preprocessing.mean, preprocessing.std, strict=True):
        if mean:
            values -= np.float32(mean)
        if std != 1:
            values /= np.float32(std)


def _resized(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) of the image inside the network input; at least one pixel."""
    (height, width), (net_height, net_width) = size, preprocessing.size
    if preprocessing.fit == "stretch":
        return preprocessing.size
    ratio = min(net_height / height, net_width / width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))
