"""Pictures of one's own, one after the other: image files, folders of them, frames of videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from quantcore.data import MOST_PIXELS
from quantcore.data.files import is_image
from quantcore.data.images import Pixels, decode_image
from quantcore.errors import DataError

#: What a folder is searched for beside images; a file that is named itself may have any ending.
VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        pixels: H x W x 3, BGR.
        number: Of the frame in its video, from 0; None for an image file.
    """

    pixels: Pixels
    number: int | None = None


def files_in(given: Sequence[Path]) -> list[Path]:
    """The files that are meant; of a folder its images and videos, by name.

    Raises:
        DataError: Something is not there, or a folder has neither.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if is_image(p) or is_video(p)]
            if not inside:
                raise DataError(f"{path}: no images or videos in this folder")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def is_video(path: Path) -> bool:
    """Whether a file is read as a video, by its ending."""
    return path.suffix.lower() in VIDEOS


def frames_of(path: Path) -> Iterator[Frame]:
    """The picture of an image file, or every frame of a video.

    Raises:
        DataError: The file cannot be read; names it.
    """
    if is_video(path):
        yield from _frames_of_video(path)
    else:
        yield Frame(decode_image(path))


def frame_rate(path: Path) -> float:
    """Frames a second of a video; 25 where it does not tell."""
    video = cv2.VideoCapture(str(path))
    try:
        rate = float(video.get(cv2.CAP_PROP_FPS))
    finally:
        video.release()
    return rate if 0 < rate <= 1000 else 25.0


def _frames_of_video(path: Path) -> Iterator[Frame]:
    video = cv2.VideoCapture(str(path))
    try:
        sides = (video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if not video.isOpened() or not 0 < sides[0] * sides[1] <= MOST_PIXELS:
            raise DataError(
                f"{path}: not a video that OpenCV can read here; convert it, for example to H.264 "
                "in .mp4"
            )
        number = 0
        while True:
            there, pixels = video.read()
            if not there:
                break
            yield Frame(np.asarray(pixels, np.uint8), number)
            number += 1
        if number == 0:
            raise DataError(f"{path}: the video has no frame that can be read")
    finally:
        video.release()
