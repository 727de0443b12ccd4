"""A data set that a program has: image files, and what it knows of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from quantcore.data.boxes import Annotation, ListedBoxes
from quantcore.data.dataset import Category, Dataset, ImageFile
from quantcore.data.folders import FolderDataset
from quantcore.data.unlabelled import UnlabelledImages
from quantcore.errors import DataError

#: Class index, then left, top, width and height in pixels of the image as it is decoded.
Box: TypeAlias = Sequence[float]
#: The boxes of an image, or the index of the one class that the whole of it shows.
Labels: TypeAlias = Sequence[Box] | int


def dataset(
    images: Iterable[Path | str | tuple[Path | str, Labels]],
    names: Sequence[str] = (),
    title: str = "your data set",
) -> Dataset:
    """Makes a data set for `calibrate`, `train`, `evaluate` and `compare`.

    Another kind, such as one whose labels are read when they are asked for, is a subclass of
    `quantcore.data.boxes.BoxDataset`.

    Args:
        images: Image files, or pairs of an image file and what it shows: boxes for detectors (an
            empty list where there is nothing), or one class index for classifiers.
        names: Of the classes, by class index; they are matched with the model's by name.
        title: What messages call it.

    Raises:
        DataError: There are no images, images of several kinds, or labels that are none.
    """
    listed: list[ImageFile] = []
    labels: list[Labels] = []
    bare = 0
    for number, entry in enumerate(images):
        path, *known = entry if isinstance(entry, tuple) else (entry,)
        listed.append(ImageFile(number, Path(str(path))))
        bare += not known
        labels.extend(known)
    kinds = {"unlabelled"} if bare else set()
    kinds |= {"a class" if isinstance(label, int) else "boxes" for label in labels}
    if len(kinds) != 1:
        raise DataError(f"{title}: {' and '.join(sorted(kinds)) or 'no images'}; give one kind")
    source, found = Path(title), tuple(listed)
    if bare:
        return UnlabelledImages(source, found)
    categories = tuple(Category(number, name) for number, name in enumerate(names))
    if isinstance(labels[0], int):
        classes = {n: _index(title, n, label, names) for n, label in enumerate(labels)}
        return FolderDataset(source, found, categories, classes)
    boxes = [
        _annotation(title, number, box, names)
        for number, label in enumerate(labels)
        for box in label  # type: ignore[union-attr]
    ]
    return ListedBoxes(source, found, categories, tuple(boxes))


def _annotation(title: str, number: int, box: Box, names: Sequence[str]) -> Annotation:
    try:
        index, left, top, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        index = left = top = width = height = -1.0
    if not (width >= 0 and height >= 0 and abs(left) + abs(top) < float("inf")):
        raise DataError(
            f"{title}: image {number}: a box is class index, left, top, width and height, not {box}"
        )
    category = _index(title, number, index, names)
    return Annotation(number, category, (left, top, width, height), width * height, False)


def _index(title: str, number: int, index: object, names: Sequence[str]) -> int:
    if not (isinstance(index, int | float) and index in range(len(names))):
        raise DataError(f"{title}: image {number}: class {index}; there are {len(names)} names")
    return int(index)
