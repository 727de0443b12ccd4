"""What a split of a data set holds, and what is wrong with it."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantcore.data.boxes import Annotation, BoxDataset, ListedBoxes
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.data.folders import FolderDataset
from quantcore.data.headers import Size, kinds
from quantcore.data.images import MOST_BYTES, decode_image, read_image
from quantcore.errors import DataError
from quantcore.reading import read_bytes
from quantcore.runtime.notes import Note
from quantcore.runtime.plain import own
from quantcore.runtime.progress import Progress

#: Areas up to which COCO calls an object small, and medium, in square pixels.
SMALL, MEDIUM = 32**2, 96**2
#: Names of files that are given of each problem.
_EXAMPLES = 5
#: Pixels that a box may lead out of its image by rounding.
_SLACK = 1.0


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, or unlike the usual.

    Attributes:
        what: What it is.
        count: How many files have it.
        examples: Some of their names.
    """

    what: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One split.

    Attributes:
        split: What it is called.
        source: What says what there is.
        holds: What its labels are.
        images: How many it lists.
        labelled: How many of them have labels.
        opened: How many were opened; sizes of images and some problems are told of these alone.
        labels: Boxes, or images with a class, by class name; every class is there.
        images_by_class: Images that show each class.
        sizes: Boxes by area: small, medium, large.
        crowds: Boxes that count neither as right nor as wrong.
        width: Least, middle and greatest width of images in pixels; None where none was opened.
        height: Likewise.
        problems: What is wrong.
        digests: Of the content of the images that were opened, by name.
    """

    split: str
    source: str
    holds: str
    images: int
    labelled: int
    opened: int
    labels: Mapping[str, int]
    images_by_class: Mapping[str, int]
    sizes: Mapping[str, int]
    crowds: int
    width: tuple[int, int, int] | None
    height: tuple[int, int, int] | None
    problems: tuple[Problem, ...]
    digests: Mapping[str, str] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; digests serve to compare splits alone."""
        found = own(self)
        del found["digests"]
        return found


def overview(dataset: Dataset, split: str, opened: int, progress: Progress) -> Overview:
    """Reads all labels of a split, and opens some of its images.

    Args:
        dataset: The split.
        split: What it is called.
        opened: How many images are opened, a sample where there are more.
        progress: Where to report.
    """
    look = _Look(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # all of them are among the problems
        look.read_labels(progress)
        look.open_images(opened, progress)
    return look.told(split)


def in_both(first: Overview, second: Overview) -> list[str]:
    """Images of the first whose content is in the second too, as far as both were opened."""
    there = set(second.digests.values())
    return [name for name, digest in first.digests.items() if digest in there]


class _Look:
    """A split that is being looked at."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._boxes: dict[int, Sequence[Annotation]] = {}
        self._problems: dict[str, list[str]] = {}
        self._sizes: list[Size] = []
        self._digests: dict[str, str] = {}
        self._opened = 0

    def read_labels(self, progress: Progress) -> None:
        """Groups boxes by image; one image that is no good costs nothing but itself."""
        data = self._dataset
        if isinstance(data, ListedBoxes):
            grouped: dict[int, list[Annotation]] = {}
            for annotation in data.annotations:
                grouped.setdefault(annotation.image_id, []).append(annotation)
            self._boxes = dict(grouped)
        elif isinstance(data, BoxDataset):
            for image in progress.track(data.images, "labels"):
                self._try(image, self._read)
        if isinstance(data, BoxDataset):
            self._problems |= {what: list(files) for what, files in data.odd().items()}
        for image in data.images:
            for box in self._boxes.get(image.id, ()):
                if min(box.bbox[2:]) < 1:
                    self._note("images with a box below one pixel", image)

    def _read(self, image: ImageFile) -> None:
        assert isinstance(self._dataset, BoxDataset)
        self._boxes[image.id] = self._dataset.annotations_of([image])

    def open_images(self, count: int, progress: Progress) -> None:
        """Decodes images, and holds boxes against their sizes."""
        every = self._dataset.images
        chosen: Iterable[int] = range(len(every))
        if count < len(every):
            chosen = np.sort(np.random.default_rng(0).choice(len(every), count, replace=False))
        images = [every[i] for i in chosen]
        self._opened = len(images)
        for image in progress.track(images, "images"):
            self._try(image, self._open)
        names: dict[str, list[str]] = {}
        for name, digest in self._digests.items():
            names.setdefault(digest, []).append(name)
        for same in names.values():
            self._problems.setdefault("images that are there again", []).extend(same[1:])

    def _open(self, image: ImageFile) -> None:
        content = read_bytes(image.path, MOST_BYTES, DataError)
        for kind in kinds(content):
            self._note(
                f"images that are {kind}" if kind != "16 bits" else "images of 16 bits", image
            )
        self._digests[str(image.path)] = hashlib.sha256(content).hexdigest()
        height, width = read_image(image).shape[:2]
        self._sizes.append((width, height))
        for box in self._boxes.get(image.id, ()):
            x, y, w, h = box.bbox
            if min(x, y) < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
                self._note("images with a box that leads out of them", image)

    def _try(self, image: ImageFile, step: Callable[[ImageFile], None]) -> None:
        try:
            step(image)
        except DataError as error:
            if str(image.path) not in str(error):  # it is about labels, and names their file
                self._note(str(error), image)
            elif not image.path.is_file():
                self._note("images that are missing", image)
            else:
                self._note(_why(image), image)

    def _note(self, what: str, image: ImageFile) -> None:
        names = self._problems.setdefault(what, [])
        if image.path.name not in names[-1:]:
            names.append(image.path.name)

    def told(self, split: str) -> Overview:
        """All of it."""
        data = self._dataset
        names = {category.id: category.name for category in data.categories}
        boxes = [box for group in self._boxes.values() for box in group]
        counts = Counter(names[box.category_id] for box in boxes)
        seen = Counter(
            names[kind] for group in self._boxes.values() for kind in {b.category_id for b in group}
        )
        labelled = sum(map(bool, self._boxes.values()))
        if isinstance(data, FolderDataset):
            counts = seen = Counter(names[kind] for kind in data.labels.values())
            labelled = len(data.images)
        areas = np.array([box.area for box in boxes])
        small, medium = int((areas < SMALL).sum()), int((areas < MEDIUM).sum())
        problems = (Problem(w, len(n), tuple(n[:_EXAMPLES])) for w, n in self._problems.items())
        return Overview(
            split=split,
            source=str(data.source),
            holds=data.holds,
            images=len(data.images),
            labelled=labelled,
            opened=self._opened,
            labels={name: counts[name] for name in names.values()},
            images_by_class={name: seen[name] for name in names.values()},
            sizes={"small": small, "medium": medium - small, "large": len(boxes) - medium},
            crowds=sum(box.iscrowd for box in boxes),
            width=_spread([width for width, _ in self._sizes]),
            height=_spread([height for _, height in self._sizes]),
            problems=tuple(problem for problem in problems if problem.count),
            digests=self._digests,
        )


def _spread(values: Sequence[int]) -> tuple[int, int, int] | None:
    return (min(values), int(np.median(values)), max(values)) if values else None


def _why(image: ImageFile) -> str:
    """Why an image that is there is refused."""
    try:
        decode_image(image.path)
    except DataError:
        return "images that cannot be read"
    return "images of another size than their labels say"
