"""What was understood of a data set, for a terminal, and some of its images with their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from quantcore.data.boxes import Annotation, BoxDataset
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.data.folders import FolderDataset
from quantcore.data.images import read_image
from quantcore.data.overview import Overview
from quantcore.report.drawing import Pixels, draw
from quantcore.results.pictures import Sight

#: Classes in the table.
_MOST_CLASSES = 20


def splits(found: Sequence[Overview]) -> Table:
    """A row for each split."""
    table = Table()
    for name in ("split", "images", "with labels", "boxes", "classes", "small/medium/large"):
        table.add_column(name, justify="left" if name == "split" else "right")
    table.add_column("width x height, least, middle, greatest", justify="right")
    for one in found:
        boxes = one.holds == "boxes"
        table.add_row(
            one.split,
            str(one.images),
            str(one.labelled),
            str(sum(one.labels.values())) if boxes else "",
            str(len(one.labels)),
            "/".join(map(str, one.sizes.values())) if boxes else "",
            _extent(one),
        )
    return table


def _extent(one: Overview) -> str:
    if one.width is None or one.height is None:
        return ""
    return ", ".join(f"{w} x {h}" for w, h in zip(one.width, one.height, strict=True))


def classes(found: Sequence[Overview]) -> Table:
    """A row for each class, the most frequent first."""
    table = Table()
    table.add_column("class", overflow="fold")
    for one in found:
        table.add_column(f"{one.split}: {one.holds}", justify="right")
        table.add_column("images", justify="right")
    names = list(dict.fromkeys(name for one in found for name in one.labels))
    total = {name: sum(one.labels.get(name, 0) for one in found) for name in names}
    names.sort(key=lambda name: -total[name])
    for name in names[:_MOST_CLASSES]:
        counts = ((one.labels.get(name, 0), one.images_by_class.get(name, 0)) for one in found)
        table.add_row(name, *(str(value) for pair in counts for value in pair))
    if len(names) > _MOST_CLASSES:
        table.add_row(f"and {len(names) - _MOST_CLASSES} more; --json shows them")
    return table


def pictures(dataset: Dataset, count: int) -> list[tuple[ImageFile, Pixels]]:
    """Some images with what their labels say; those that have labels first.

    Raises:
        DataError: An image or its labels cannot be read.
    """
    order = np.random.default_rng(0).permutation(len(dataset.images)).tolist()
    images = sorted((dataset.images[i] for i in order), key=lambda i: not dataset.labelled([i.id]))
    return [(image, draw(read_image(image), _sights(dataset, image))) for image in images[:count]]


def _sights(dataset: Dataset, image: ImageFile) -> list[Sight]:
    names = {category.id: category.name for category in dataset.categories}
    order = {identity: number for number, identity in enumerate(sorted(names))}
    if isinstance(dataset, FolderDataset):
        kind = dataset.labels[image.id]
        return [Sight(name=names[kind], class_index=order[kind], score=1.0, box=None)]
    boxes = dataset.annotations_of([image]) if isinstance(dataset, BoxDataset) else ()
    return [
        Sight(
            name=names[box.category_id],
            class_index=order[box.category_id],
            score=1.0,
            box=_corners(box),
        )
        for box in boxes
    ]


def _corners(box: Annotation) -> tuple[float, float, float, float]:
    x, y, width, height = box.bbox
    return x, y, x + width, y + height
