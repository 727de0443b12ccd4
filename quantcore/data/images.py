"""Reads an image file into pixels, refusing what is corrupt or not what was annotated."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from quantcore.data.dataset import ImageFile
from quantcore.errors import DataError

Pixels = npt.NDArray[np.uint8]


def read_image(image: ImageFile) -> Pixels:
    """Decodes an image file.

    Args:
        image: Which, and how large it must be where its labels are about pixels.

    Returns:
        H x W x 3, BGR.

    Raises:
        DataError: Missing, corrupt, truncated, or of another size than annotated; names the file.
    """
    pixels = decode_image(image.path)
    height, width = pixels.shape[:2]
    if image.size not in (None, (width, height)):
        wanted = " x ".join(map(str, image.size or ()))
        raise DataError(
            f"{image.path}: the image has {width} x {height} pixels, the annotation file says "
            f"{wanted}; use the images that were annotated"
        )
    return pixels


def decode_image(path: Path) -> Pixels:
    """Decodes an image file, whatever its size: H x W x 3, BGR.

    Raises:
        DataError: Missing, corrupt or truncated; names the file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from None
    pixels = None
    if content and not _truncated_jpeg(content):
        try:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise DataError(
            f"{path}: corrupt or truncated image ({len(content)} bytes); download it again"
        )
    return np.asarray(pixels, dtype=np.uint8)


def _truncated_jpeg(content: bytes) -> bool:
    """Whether a JPEG breaks off: OpenCV 4 fills the rest with grey and says nothing.

    Coded data cannot hold the end marker, and a thumbnail's lies before the last scan starts.
    """
    return content.startswith(b"\xff\xd8") and content.rfind(b"\xff\xd9") < content.rfind(
        b"\xff\xda"
    )
