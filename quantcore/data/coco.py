"""COCO-format detection data: images, categories and boxes, checked before anything is run."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from quantcore.data import MOST_PIXELS
from quantcore.data.dataset import Category, Dataset, ImageFile
from quantcore.errors import DataError
from quantcore.ir.values import number
from quantcore.reading import parse_json, read_bytes
from quantcore.runtime.notes import note
from quantcore.showing import one_line, shown

#: Bytes of an annotation file; that of train2017 has 470 MB.
_MOST_BYTES = 1 << 30
#: Beyond any id, any box and any area.
_LARGEST = 1 << 53
#: Characters of texts, and bytes of one part of a file's name.
_LONGEST = {"file_name": 1000, "name": 200}
_LONGEST_PART = 255

_Record = Mapping[str, Any]


@dataclass(frozen=True)
class CocoImage(ImageFile):
    """One image of the annotation file, which gives its id.

    Attributes:
        width: Pixels, as the annotation file says.
        height: Likewise.
    """

    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.width, self.height


@dataclass(frozen=True)
class Annotation:
    """One ground-truth box.

    Attributes:
        image_id: The image it is in.
        category_id: What it shows.
        bbox: x, y, width, height in pixels of the original image.
        area: Of the object's mask in square pixels, of its box where the file has no area.
        iscrowd: Whether it stands for a group.
    """

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool


@dataclass(frozen=True)
class CocoDataset(Dataset):
    """One split of a data set in COCO's layout and annotation format.

    Attributes:
        source: The annotation file.
        images: In the order of the annotation file.
        categories: Likewise.
        annotations: Likewise.
    """

    source: Path
    images: tuple[CocoImage, ...]
    categories: tuple[Category, ...]
    annotations: tuple[Annotation, ...]

    @classmethod
    def open(cls, root: Path, split: str) -> CocoDataset:
        """Reads `root/annotations/instances_<split>.json`; images lie in `root/<split>/`.

        Args:
            root: Folder of the data set.
            split: `train2017`, `val2017`, or another that follows the same layout.

        Raises:
            DataError: Something is missing or inconsistent; names the file and the entry.
        """
        source = root / "annotations" / f"instances_{split}.json"
        folder = root / split
        for path, what in ((root, "data set"), (folder, "image")):
            if not path.is_dir():
                raise DataError(f"{path}: no such {what} folder; COCO's layout is {_layout(split)}")
        data = _read_json(source)
        images = tuple(_image(source, r, folder) for r in _records(source, data, "images"))
        categories = tuple(_category(source, r) for r in _records(source, data, "categories"))
        if not images or not categories:
            what = "categories" if images else "images"
            raise DataError(f"{source}: split {shown(split)} has no {what}; choose another split")
        _check_unique(source, "image id", [image.id for image in images])
        _check_unique(source, "category id", [category.id for category in categories])
        _check_unique(source, "category name", [category.name for category in categories])
        annotations = tuple(_annotation(source, r) for r in _records(source, data, "annotations"))
        _check_references(source, images, categories, annotations)
        return cls(source, images, categories, annotations)

    def labels_of(self, images: Sequence[ImageFile]) -> tuple[object, ...]:
        """See Dataset."""
        numbers = {image.id: number for number, image in enumerate(images)}
        labels = [
            (numbers[a.image_id], a.category_id, a.bbox, a.area, a.iscrowd)
            for a in self.annotations
            if a.image_id in numbers
        ]
        return self.categories, [image.id for image in images], labels

    def labelled(self, ids: Collection[int]) -> bool:
        """See Dataset."""
        return not {a.image_id for a in self.annotations}.isdisjoint(ids)

    def check_classes(self, class_names: Sequence[str]) -> tuple[int, ...]:
        """See Dataset.

        Where the names differ (generic names, another spelling) class i is the i-th category by
        id, which is the order that detectors are trained in: COCO's 80 categories have ids up to
        90.
        """
        if len(class_names) != len(self.categories):
            raise DataError(
                f"the model knows {len(class_names)} classes, {self.source} has "
                f"{len(self.categories)} categories; use the data set that the model was trained on"
            )
        by_name = {_spelled(category.name): category.id for category in self.categories}
        names = [_spelled(name) for name in class_names]
        if len(by_name) == len(self.categories) and set(names) == by_name.keys():
            return tuple(by_name[name] for name in names)
        ids = tuple(sorted(category.id for category in self.categories))
        if not all(re.fullmatch(r"class[ ]?\d+|\d+", name) for name in names):
            self._tell_names(class_names, ids)
        return ids

    def _tell_names(self, class_names: Sequence[str], ids: Sequence[int]) -> None:
        """Tells which names differ where classes are taken in order."""
        own = {category.id: category.name for category in self.categories}
        pairs = [(name, own[i]) for name, i in zip(class_names, ids, strict=True)]
        other = [(a, b) for a, b in pairs if _spelled(a) != _spelled(b)]
        if not other:
            return
        known = {_spelled(category.name) for category in self.categories}
        moved = next((shown(a, 60) for a, _ in other if _spelled(a) in known), None)
        why = f", although {moved} stands elsewhere; mAP may say nothing" if moved else ""
        note(
            f"{len(other)} of the model's {len(pairs)} class names are not those of "
            f"{self.source.name}, such as {shown(other[0][0], 60)} where that has "
            f"{shown(other[0][1], 60)}; classes are matched by their order{why}"
        )


def _spelled(name: str) -> str:
    """A name without what people write in different ways."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _layout(split: str) -> str:
    return f"ROOT/annotations/instances_{split}.json and ROOT/{split}/"


def _read_json(source: Path) -> _Record:
    def slim(record: dict[str, Any]) -> dict[str, Any]:
        # Outlines are most of the file and several GB once parsed (train2017); boxes are enough.
        record.pop("segmentation", None)
        return record

    if not source.exists():
        raise DataError(f"{source}: no such annotation file; download the annotations")
    content = read_bytes(source, _MOST_BYTES, DataError)
    try:
        data = parse_json(content, slim, infinite=True)
    except ValueError as error:
        reason = one_line(str(error), 300)
        raise DataError(f"{source}: not JSON ({reason}); download the annotations again") from None
    if not isinstance(data, dict):
        raise DataError(f"{source}: not a COCO annotation file: the top level is not an object")
    return data


def _records(source: Path, data: _Record, key: str) -> list[_Record]:
    records = data.get(key)
    if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise DataError(f"{source}: not a COCO annotation file: {key!r} is not a list of objects")
    return records


def _field(source: Path, record: _Record, what: str, key: str, kind: type) -> Any:
    """A value of a record, or a DataError that shows which record lacks it."""
    value: Any = record.get(key)
    # JSON's true is an int to Python, and an id to nobody.
    fits = isinstance(value, kind) and (not isinstance(value, bool) or kind is bool)
    if not fits or (kind is int and abs(value) > _LARGEST):
        problem = f"{key!r} is {shown(value)}, needs {kind.__name__}"
        raise _faulty(source, record, what, problem if key in record else f"no {key!r}")
    if kind is str and not (value.isprintable() and 0 < len(value) <= _LONGEST[key]):
        problem = f"must be a text of at most {_LONGEST[key]} characters, not {shown(value)}"
        raise _faulty(source, record, what, f"{key!r} {problem}")
    return value


def _faulty(source: Path, record: _Record, what: str, problem: str) -> DataError:
    known = shown(record["id"], 40) if "id" in record else "without id"
    return DataError(f"{source}: {what} {known}: {problem}; correct the annotation file")


def _image(source: Path, record: _Record, folder: Path) -> CocoImage:
    name = _field(source, record, "image", "file_name", str)
    parts = PurePath(name).parts
    if not parts or PurePath(name).is_absolute() or ".." in parts:
        problem = f"file_name {shown(name)} leads out of the folder of images"
        raise _faulty(source, record, "image", problem)
    if any(len(part.encode()) > _LONGEST_PART for part in parts):
        raise _faulty(source, record, "image", f"file_name {shown(name)} is too long")
    identity, width, height = (
        int(_field(source, record, "image", key, int)) for key in ("id", "width", "height")
    )
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        problem = f"{width} x {height} pixels; an image has from 1 to {MOST_PIXELS}"
        raise _faulty(source, record, "image", problem)
    return CocoImage(identity, folder / name, width, height)


def _category(source: Path, record: _Record) -> Category:
    return Category(
        _field(source, record, "category", "id", int),
        _field(source, record, "category", "name", str),
    )


def _annotation(source: Path, record: _Record) -> Annotation:
    image_id = _field(source, record, "annotation", "image_id", int)
    category_id = _field(source, record, "annotation", "category_id", int)
    bbox = _field(source, record, "annotation", "bbox", list)
    crowd = record.get("iscrowd", 0)
    try:
        x, y, width, height = (float(number(value)) for value in bbox)
        area = float(number(record["area"])) if "area" in record else width * height
    except (TypeError, ValueError):
        x = y = width = height = area = math.nan
    # Comparisons with NaN are false.
    if not (all(abs(v) < _LARGEST for v in (x, y, width, height)) and 0 <= area < _LARGEST):
        raise DataError(
            f"{source}: annotation {shown(record.get('id'), 40)} of image {image_id}: bbox must be "
            f"four numbers and area one, not {shown(bbox)} and {shown(record.get('area'), 60)}"
        )
    if min(width, height) < 0 or not isinstance(crowd, int) or crowd not in (0, 1):
        problem = f"a box of {width:g} x {height:g} pixels with iscrowd {shown(crowd, 40)}"
        raise _faulty(source, record, "annotation", problem)
    return Annotation(image_id, category_id, (x, y, width, height), area, bool(crowd))


def _check_unique(source: Path, what: str, values: Sequence[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{source}: {what} {shown(value)} is there twice; make it unique")
        seen.add(value)


def _check_references(
    source: Path,
    images: Sequence[CocoImage],
    categories: Sequence[Category],
    annotations: Sequence[Annotation],
) -> None:
    image_ids = {image.id for image in images}
    category_ids = {category.id for category in categories}
    for annotation in annotations:
        for what, value, known in (
            ("image", annotation.image_id, image_ids),
            ("category", annotation.category_id, category_ids),
        ):
            if value not in known:
                raise DataError(
                    f"{source}: an annotation names {what} id {value}, which the file does not "
                    "list; correct the annotation file"
                )
