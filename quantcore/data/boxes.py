"""Images with boxes around what they show, whatever format the boxes came in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from quantcore.data.classes import match_classes
from quantcore.data.dataset import Category, Dataset, ImageFile


@dataclass(frozen=True)
class Annotation:
    """One ground-truth box.

    Attributes:
        image_id: The image it is in.
        category_id: What it shows.
        bbox: x, y, width, height in pixels of the original image.
        area: Of the object's mask in square pixels, of its box where the file has no area.
        iscrowd: Whether what is found in it counts neither as right nor as wrong: it stands for a
            group, or is too hard to tell.
    """

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool


class BoxDataset(Dataset):
    """One split of some images with boxes; a subclass for each format."""

    holds: ClassVar[str] = "boxes"

    @property
    def ordered(self) -> bool:
        """Whether the order of category ids means anything."""
        return True

    @abstractmethod
    def annotations_of(self, images: Sequence[ImageFile]) -> tuple[Annotation, ...]:
        """The boxes of some of its images.

        Raises:
            DataError: A file of labels, or an image that they need, is no good; names it.
        """

    def odd(self) -> Mapping[str, Sequence[str]]:
        """What is odd about its files of labels, with the names of those; reads all labels."""
        return {}

    def labels_of(self, images: Sequence[ImageFile]) -> tuple[object, ...]:
        """See Dataset."""
        numbers = {image.id: number for number, image in enumerate(images)}
        labels = [
            (numbers[a.image_id], a.category_id, a.bbox, a.area, a.iscrowd)
            for a in self.annotations_of(images)
        ]
        return self.categories, [image.id for image in images], labels

    def objects(self, ids: Collection[int]) -> tuple[tuple[str, float | None], ...]:
        """See Dataset."""
        names = {category.id: category.name for category in self.categories}
        wanted = set(ids)
        own = self.annotations_of([image for image in self.images if image.id in wanted])
        return tuple((names[a.category_id], a.area) for a in own)

    def labelled(self, ids: Collection[int]) -> bool:
        """See Dataset."""
        wanted = set(ids)
        return any(self.annotations_of([i]) for i in self.images if i.id in wanted)

    def check_classes(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """See Dataset and `quantcore.data.classes`."""
        return match_classes(class_names, self.categories, self.source, self.ordered)


@dataclass(frozen=True)
class ListedBoxes(BoxDataset):
    """Boxes that are all known from the start.

    Attributes:
        source: See Dataset.
        images: Likewise.
        categories: Likewise.
        annotations: The boxes of all images.
    """

    source: Path
    images: tuple[ImageFile, ...]
    categories: tuple[Category, ...]
    annotations: tuple[Annotation, ...]

    def annotations_of(self, images: Sequence[ImageFile]) -> tuple[Annotation, ...]:
        """See BoxDataset."""
        wanted = {image.id for image in images}
        return tuple(a for a in self.annotations if a.image_id in wanted)

    def labelled(self, ids: Collection[int]) -> bool:
        """See Dataset."""
        return not {a.image_id for a in self.annotations}.isdisjoint(ids)
