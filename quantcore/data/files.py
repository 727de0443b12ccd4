"""Which files of a folder are images."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from quantcore.errors import DataError

#: What OpenCV reads and people keep.
_ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
#: Files and folders that are looked at: a file may name a whole disk as its folder of images.
_MOST = 3_000_000


def is_image(path: Path) -> bool:
    """Whether a file is called like an image; hidden ones are none."""
    return path.suffix.lower() in _ENDINGS and not path.name.startswith(".")


def images_below(folder: Path) -> list[Path]:
    """The images of a folder and of the folders in it, by path.

    Raises:
        DataError: It holds more files than any data set.
    """
    looked = list(islice(folder.rglob("*"), _MOST + 1))
    if len(looked) > _MOST:
        raise DataError(f"{folder}: holds more than {_MOST} files; give the folder of images")
    return sorted(path for path in looked if is_image(path))
