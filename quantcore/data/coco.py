"""COCO-format detection data: images, categories and boxes, checked before anything is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from quantcore.data import MOST_PIXELS
from quantcore.data.boxes import Annotation, ListedBoxes
from quantcore.data.dataset import Category, ImageFile
from quantcore.errors import DataError
from quantcore.ir.values import number
from quantcore.reading import parse_json, read_bytes
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
class CocoDataset(ListedBoxes):
    """One split with COCO's annotations.

    Attributes:
        source: The annotation file.
        images: In the order of the annotation file.
        categories: Likewise.
        annotations: Likewise.
    """

    images: tuple[CocoImage, ...]

    @classmethod
    def open(cls, root: Path, split: str) -> CocoDataset:
        """Reads `root/annotations/instances_<split>.json`.

        Args:
            root: Folder of the data set.
            split: `train2017`, `val2017`, or another that follows the same layout; images lie in
                `root/<split>/` or `root/images/<split>/`.

        Raises:
            DataError: Something is missing or inconsistent; names the file and the entry.
        """
        source = root / "annotations" / f"instances_{split}.json"
        folder = root / "images" / split
        folder = folder if folder.is_dir() else root / split
        for path, what in ((root, "data set"), (folder, "image")):
            if not path.is_dir():
                raise DataError(f"{path}: no such {what} folder; COCO's layout is {_layout(split)}")
        return cls.read(source, folder)

    @classmethod
    def read(cls, source: Path, folder: Path) -> CocoDataset:
        """Reads an annotation file.

        Args:
            source: The file.
            folder: Where its images lie.

        Raises:
            DataError: See `open`.
        """
        if not source.exists():
            raise DataError(f"{source}: no such annotation file; download the annotations")
        about = source.stat()
        return cls._read(source, folder, (about.st_mtime_ns, about.st_size))

    @classmethod
    @lru_cache(maxsize=2)  # the two splits of a study: that of train2017 takes 16 s
    def _read(cls, source: Path, folder: Path, version: tuple[int, int]) -> CocoDataset:
        """The annotation file as it was in some version, which its time and size tell."""
        data = _read_json(source)
        images = tuple(_image(source, r, folder) for r in _records(source, data, "images"))
        categories = tuple(_category(source, r) for r in _records(source, data, "categories"))
        if not images or not categories:
            what = "categories" if images else "images"
            raise DataError(f"{source}: the file has no {what}; choose another split")
        _check_unique(source, "image id", [image.id for image in images])
        _check_unique(source, "category id", [category.id for category in categories])
        _check_unique(source, "category name", [category.name for category in categories])
        annotations = tuple(_annotation(source, r) for r in _records(source, data, "annotations"))
        _check_references(source, images, categories, annotations)
        return cls(source, images, categories, annotations)


def _layout(split: str) -> str:
    return f"ROOT/annotations/instances_{split}.json and ROOT/{split}/"


def _read_json(source: Path) -> _Record:
    def slim(record: dict[str, Any]) -> dict[str, Any]:
        # Outlines are most of the file and several GB once parsed (train2017); boxes are enough.
        record.pop("segmentation", None)
        return record

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
