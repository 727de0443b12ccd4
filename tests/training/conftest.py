"""What the tests of training share: images on disk, and a training in NumPy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from quantcore.data.coco import CocoImage


@pytest.fixture
def photos(tmp_path) -> list[CocoImage]:
    """Five small images of different shapes, each of a colour of its own."""
    found = []
    for number in range(5):
        height, width = 40 + 8 * number, 60 - 4 * number
        path = tmp_path / f"{number}.png"
        pixels = np.full((height, width, 3), (10 * number, 100, 200), np.uint8)
        pixels[:, : width // 2] = 255
        cv2.imwrite(str(path), pixels)
        found.append(CocoImage(number + 1, path, width, height))
    return found
