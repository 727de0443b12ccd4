"""An image into a network input of fixed size, and boxes back again."""

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
        left: Grey columns left of the image; negative where as many of its own are cut off.
        top: Grey rows above it, likewise.
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
    (height, width), (new_height, new_width) = size, fitted(size, preprocessing)
    net_height, net_width = preprocessing.size
    left = top = 0
    if preprocessing.fit == "letterbox" and preprocessing.placement == "center":
        # The odd pixel goes to the right and to the bottom, as where YOLOv5 was trained.
        left = round((net_width - new_width) / 2 - 0.1)
        top = round((net_height - new_height) / 2 - 0.1)
    if preprocessing.fit == "crop":
        # Half a pixel as torchvision's CenterCrop rounds it.
        left, top = -round((new_width - net_width) / 2), -round((new_height - net_height) / 2)
    scale = (net_width / width, net_height / height)
    if preprocessing.fit == "letterbox":
        scale = (min(scale), min(scale))
    if preprocessing.fit == "crop":
        scale = (max(scale) / preprocessing.crop,) * 2
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
    image = resized(image, fitted(size, preprocessing), preprocessing)
    net_height, net_width = preprocessing.size
    canvas = np.full((net_height, net_width, 3), preprocessing.pad_value, np.uint8)
    image = image[max(-placement.top, 0) :, max(-placement.left, 0) :][:net_height, :net_width]
    top, left = max(placement.top, 0), max(placement.left, 0)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return network_input(canvas, preprocessing), placement


def resized(image: Pixels, size: tuple[int, int], preprocessing: Preprocessing) -> Pixels:
    """An image of another size (height, width), by the model's interpolation."""
    if image.shape[:2] == size:
        return image
    way = _INTERPOLATIONS[preprocessing.interpolation]
    return np.asarray(cv2.resize(image, size[::-1], interpolation=way))


def network_input(pixels: Pixels, preprocessing: Preprocessing) -> Array:
    """What the network is given for some pixels: 3 x h x w for h x w x 3 in BGR, 0..255."""
    if preprocessing.channels == "rgb":
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    found = np.empty((3, *pixels.shape[:2]), np.float32)
    np.multiply(pixels.transpose(2, 0, 1), np.float32(preprocessing.scale), out=found)
    _normalise(found, preprocessing)
    return found


def _normalise(pixels: Array, preprocessing: Preprocessing) -> None:
    """Takes off the mean and divides by the deviation of each channel, in place."""
    for values, mean, std in zip(pixels, preprocessing.mean, preprocessing.std, strict=True):
        if mean:
            values -= np.float32(mean)
        if std != 1:
            values /= np.float32(std)


def fitted(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) of the image inside the network input; at least one pixel."""
    (height, width), (net_height, net_width) = size, preprocessing.size
    if preprocessing.fit == "stretch":
        return preprocessing.size
    if preprocessing.fit == "crop":
        # The longer side is cut off to whole pixels, as torchvision's Resize does.
        ratio = max(net_height / height, net_width / width) / preprocessing.crop
        sides = (int(side * ratio + 1e-6) for side in (height, width))
        return max(net_height, next(sides)), max(net_width, next(sides))
    ratio = min(net_height / height, net_width / width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))
