"""A plain folder of images: enough to calibrate on, to train on and to look at what is found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from quantcore.data.dataset import Category, Dataset, ImageFile
from quantcore.data.files import images_below
from quantcore.errors import DataError


@dataclass(frozen=True)
class UnlabelledImages(Dataset):
    """Images of which nobody has said what they show.

    Attributes:
        source: The folder.
        images: By path, those in folders within it too.
        categories: None.
    """

    source: Path
    images: tuple[ImageFile, ...]
    categories: tuple[Category, ...] = ()
    holds: ClassVar[str] = "images without labels"

    @classmethod
    def open(cls, folder: Path) -> UnlabelledImages:
        """Lists the images of a folder, and of folders within it.

        Raises:
            DataError: There is no such folder, or none in it.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: no such image folder; choose another split")
        paths = images_below(folder)
        if not paths:
            raise DataError(f"{folder}: no images in it")
        return cls(folder, tuple(ImageFile(n, path) for n, path in enumerate(paths)))

    def labels_of(self, images: Sequence[ImageFile]) -> tuple[object, ...]:
        """See Dataset: there are none."""
        return ("unlabelled", [image.id for image in images])

    def labelled(self, ids: Collection[int]) -> bool:
        """See Dataset."""
        return False

    def check_classes(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """See Dataset.

        Raises:
            DataError: Always: without labels nothing can be measured.
        """
        raise DataError(
            f"{self.source}: images without labels, which do to calibrate on and to train on, but "
            "not to evaluate on; give COCO annotations, a data.yaml or a folder for each class"
        )
