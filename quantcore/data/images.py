"""Reads an image file into pixels, refusing what is corrupt or not what was annotated."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from quantcore.data import MOST_PIXELS
from quantcore.data.dataset import ImageFile
from quantcore.data.headers import Size, fault, header_size, turned
from quantcore.errors import DataError
from quantcore.reading import read_bytes, read_start

Pixels = npt.NDArray[np.uint8]

#: Bytes of an image file.
MOST_BYTES = 1 << 28
#: Of these the beginning that is read for the size alone: EXIF with a thumbnail has up to 64 kB.
_HEAD = 1 << 17


def read_image(image: ImageFile) -> Pixels:
    """Decodes an image file.

    Args:
        image: Which, and how large it must be where its labels are about pixels.

    Returns:
        H x W x 3, BGR.

    Raises:
        DataError: Missing, corrupt, truncated, or of another size than annotated; names the file.
    """
    wanted = image.size
    pixels = _decoded(image.path, wanted)
    height, width = pixels.shape[:2]
    if wanted is not None:
        _check_size(image.path, (width, height), wanted)
    return pixels


def decode_image(path: Path) -> Pixels:
    """Decodes an image file, whatever its size: H x W x 3, BGR.

    Raises:
        DataError: Missing, corrupt or truncated; names the file.
    """
    return _decoded(path, None)


def image_size(path: Path) -> Size:
    """Width and height of what `decode_image` gives, from the header alone where that tells.

    Raises:
        DataError: As `decode_image`; of what the header tells, no more is read.
    """
    head = read_start(path, _HEAD, DataError)
    if len(head) == _HEAD and not head.startswith(b"\xff\xd8"):  # EXIF may stand at the end
        head = read_bytes(path, MOST_BYTES, DataError)
    size, turn = header_size(head), turned(head)
    if size and min(size) > 0 and turn is not None:
        return size[::-1] if turn else size
    height, width = decode_image(path).shape[:2]
    return width, height


def _decoded(path: Path, wanted: Size | None) -> Pixels:
    """The pixels; where a size is wanted, a header that says another is refused before decoding.

    A photograph that was to be turned on decoding stays as it is where it was annotated so.
    """
    content = read_bytes(path, MOST_BYTES, DataError)
    size = header_size(content)
    if size and wanted and min(size) > 0 and size[::-1] != wanted:  # it may be turned on decoding
        _check_size(path, size, wanted)
    if size and size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"{path}: {size[0]} x {size[1]} pixels are more than the {MOST_PIXELS} that an image "
            "may have; scale it down"
        )
    wrong = fault(content) if content else "it is empty"
    as_is = wanted is not None and size == wanted and bool(turned(content))
    pixels = _pixels(content, as_is) if wrong is None else None
    if pixels is None:
        why = f"; {wrong}" if wrong else ""
        raise DataError(
            f"{path}: corrupt or truncated image ({len(content)} bytes{why}); download it again"
        )
    return np.asarray(pixels, dtype=np.uint8)


def _pixels(content: bytes, as_is: bool) -> npt.NDArray[np.generic] | None:
    """What OpenCV makes of a file; None where that is nothing."""
    before = cv2.utils.logging.setLogLevel(0)  # it would tell several lines of its own
    try:
        found: npt.NDArray[np.generic] | None = cv2.imdecode(
            np.frombuffer(content, np.uint8),
            cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if as_is else 0),
        )
        return found
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(before)


def _check_size(path: Path, found: Size, wanted: Size) -> None:
    if found != wanted:
        raise DataError(
            f"{path}: the image has {found[0]} x {found[1]} pixels, the annotation file says "
            f"{wanted[0]} x {wanted[1]}; use the images that were annotated"
        )
