"""What is asked of any data set: images, a sample of them, and labels under a model's classes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from quantcore.errors import DataError
from quantcore.runtime.notes import note

D = TypeVar("D", bound="Dataset")


@dataclass(frozen=True)
class ImageFile:
    """One image of a data set.

    Attributes:
        id: Of the image in its data set.
        path: The image file.
    """

    id: int
    path: Path

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) in pixels that the labels are about; None where they are about none."""
        return None


@dataclass(frozen=True)
class Category:
    """One thing that labels can name."""

    id: int
    name: str


class Dataset(ABC):
    """One split of some images with labels; a subclass for each kind of label.

    Attributes:
        source: The file or folder that says what there is.
        images: In the data set's order.
        categories: Likewise.
        holds: What its labels are, for messages.
    """

    source: Path
    images: tuple[ImageFile, ...]
    categories: tuple[Category, ...]
    holds: ClassVar[str]

    @abstractmethod
    def labels_of(self, images: Sequence[ImageFile]) -> tuple[object, ...]:
        """Values that stand for all labels of some images in a content key."""

    def objects(self, ids: Collection[int]) -> tuple[tuple[str, float | None], ...]:
        """What some images show: name of its category and square pixels of each labelled object.

        The area is None where labels are about whole images; nothing where there are no labels.
        """
        return ()

    @abstractmethod
    def labelled(self, ids: Collection[int]) -> bool:
        """Whether any of these images has a label."""

    @abstractmethod
    def check_classes(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """Maps a model's class indices to category ids.

        Classes are matched by name where model and data set have the same names.

        Args:
            class_names: The model's, in class-index order.

        Returns:
            The category id of each class index.

        Raises:
            DataError: The two do not fit each other.
        """

    def only(self: D, ids: Collection[int]) -> D:
        """The data set with some of its images, in its own order.

        Raises:
            DataError: None of them is there.
        """
        wanted = frozenset(ids)
        kept = tuple(image for image in self.images if image.id in wanted)
        if not kept:
            raise DataError(f"{self.source}: has none of the {len(wanted)} images asked for")
        found = copy.copy(self)
        object.__setattr__(found, "images", kept)  # of a data class that is frozen
        return found

    def select(self, count: int | None = None, seed: int = 0) -> tuple[ImageFile, ...]:
        """All images, or a sample of them, in the data set's order.

        Args:
            count: How many; None, or as many as there are or more, takes all.
            seed: The same seed gives the same sample.

        Raises:
            DataError: `count` is not positive, or the file of a selected image is missing.
        """
        if count is not None and count < 1:
            raise DataError(f"{self.source}: cannot select {count} images; ask for 1 or more")
        if count is not None and count > len(self.images):
            note(
                f"{count} images were asked for, {self.source.name} lists {len(self.images)}; all "
                "of them are taken"
            )
        chosen = self.images
        if count is not None and count < len(self.images):
            picks = np.random.default_rng(seed).choice(len(self.images), count, replace=False)
            chosen = tuple(self.images[i] for i in np.sort(picks))
        missing = [image.path for image in chosen if not image.path.is_file()]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"{missing[0]}{more}: image file missing, but listed in {self.source}; "
                "download the images again"
            )
        return chosen
