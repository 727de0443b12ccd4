"""Images in a folder for each class, as ImageNet's are: ROOT/SPLIT/CLASS/*.jpg."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from quantcore.data.dataset import Category, Dataset, ImageFile
from quantcore.data.files import is_image
from quantcore.errors import DataError


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """One split, whose folders are the classes.

    Attributes:
        source: The split's folder.
        images: By class, then by file name.
        categories: The folders by name; ids count from 0.
        labels: Category id of each image id.
    """

    source: Path
    images: tuple[ImageFile, ...]
    categories: tuple[Category, ...]
    labels: Mapping[int, int]
    holds: ClassVar[str] = "classes of whole images"

    @classmethod
    def open(cls, root: Path, split: str) -> FolderDataset:
        """Lists `root/<split>/<class>/`; other files than images are passed over.

        Raises:
            DataError: There is no such folder, or no image in it.
        """
        source = root / split
        folders = class_folders(source)
        categories = tuple(Category(n, folder.name) for n, folder in enumerate(folders))
        found = [
            (path, n)
            for n, folder in enumerate(folders)
            for path in sorted(folder.iterdir())
            if is_image(path)
        ]
        if not found:
            raise DataError(
                f"{source}: no images in folders of their classes; the layout is "
                f"{source}/CLASS/*.jpg"
            )
        images = tuple(ImageFile(i, path) for i, (path, _) in enumerate(found))
        return cls(source, images, categories, {i: n for i, (_, n) in enumerate(found)})

    def labels_of(self, images: Sequence[ImageFile]) -> tuple[object, ...]:
        """See Dataset."""
        return self.categories, [(image.id, self.labels[image.id]) for image in images]

    def objects(self, ids: Collection[int]) -> tuple[tuple[str, float | None], ...]:
        """See Dataset."""
        return tuple((self.categories[self.labels[i]].name, None) for i in ids)

    def labelled(self, ids: Collection[int]) -> bool:
        """See Dataset: every image lies in some folder."""
        return bool(ids)

    def check_classes(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """See Dataset.

        Classes of a model that has other names, or generic ones, are the folders in the order of
        their names, as torchvision's ImageFolder numbers them. A split may lack folders where the
        model's names tell which: their classes count as ids that no image has.
        """
        ids = {category.name: category.id for category in self.categories}
        if ids.keys() <= set(class_names):
            spare = iter(range(len(ids), len(class_names)))
            return tuple(ids[name] if name in ids else next(spare) for name in class_names)
        if len(class_names) == len(ids):
            return tuple(ids.values())
        unknown = next(name for name in ids if name not in class_names)
        raise DataError(
            f"the model knows {len(class_names)} classes, {self.source} has {len(ids)} folders, "
            f"among them {unknown!r}, which is none of them; use the data set that the model was "
            "trained on"
        )


def class_folders(source: Path) -> list[Path]:
    """The folders in a split's folder by name; none where it is no folder."""
    if not source.is_dir():
        return []
    found = (path for path in source.iterdir() if not path.name.startswith("."))
    return sorted(path for path in found if path.is_dir())
