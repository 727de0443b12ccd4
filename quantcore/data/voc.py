"""Pascal VOC: an XML file of boxes for each image."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantcore.data.boxes import Annotation, ListedBoxes
from quantcore.data.dataset import Category, ImageFile
from quantcore.data.files import is_image
from quantcore.errors import DataError
from quantcore.reading import read_text
from quantcore.runtime.notes import note
from quantcore.showing import shown

#: What the folders of annotations and of images are called, the format's own names first.
_ANNOTATIONS, _IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images")
_LISTS, _NAMES = "ImageSets/Main", ("label_list.txt", "labels.txt", "classes.txt")
#: Bytes of a file of annotations, and of a list.
_MOST_XML, _MOST_LIST = 1 << 20, 1 << 27
#: Objects in an image, characters of a name, and beyond any coordinate.
_MOST_OBJECTS, _LONGEST_NAME, _LARGEST = 10_000, 200, 1 << 31


@dataclass(frozen=True)
class _Object:
    """A box as the file has it: the first and last column and row of its pixels."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocDataset(ListedBoxes):
    """One split in Pascal VOC's layout.

    Attributes:
        source: The list of the split, or the folder of annotations.
        images: In the order of the list, or by name.
        categories: In the order of `label_list.txt`, `labels.txt` or `classes.txt`, a name a line;
            without such a file those that the annotations of the split use, in alphabetical order.
        annotations: By image. A `difficult` object counts neither as right nor as wrong.
        listed: Whether there is such a file.
    """

    listed: bool = False

    @property
    def ordered(self) -> bool:
        """See BoxDataset."""
        return self.listed

    @classmethod
    def open(cls, root: Path, split: str) -> VocDataset:
        """Reads `Annotations/` of the images that `ImageSets/Main/<split>.txt` lists.

        Pixels count from 1 in this format, the last one included, so that a box from 1 to 2 is two
        pixels wide. Where some box begins at 0, the files' pixels count from 0.

        Args:
            root: Holds `Annotations/` and `JPEGImages/` (also `annotations/` and `images/`), or
                the images beside the annotations.
            split: Name of the list. Without lists, every image that has annotations is in it.

        Raises:
            DataError: Something is missing or wrong; names the file.
        """
        source = root / _LISTS / f"{split}.txt"
        listed = source.is_file()
        if not listed and (root / _LISTS).is_dir():
            known = ", ".join(sorted(path.stem for path in (root / _LISTS).glob("*.txt"))[:10])
            raise DataError(f"{source}: no such list of images; there are {known or 'none'}")
        folder = annotation_folder(root) or root / _ANNOTATIONS[0]
        source = source if listed else folder
        names = _listed(source) if listed else _annotated(source)
        if not names:
            raise DataError(f"{source}: no images in it")
        beside = next((root / n for n in _IMAGES if (root / n).is_dir()), folder)
        pictures = {path.stem: path for path in beside.iterdir() if is_image(path)}
        images, read = [], []
        for number, name in enumerate(names):
            images.append(ImageFile(number, pictures.get(name, beside / f"{name}.jpg")))
            read.append(read_objects(folder / f"{name}.xml"))
        used = {found.name for objects in read for found in objects}
        if not used:
            raise DataError(f"{source}: no objects in the annotations of {len(names)} images")
        listing = next((root / n for n in _NAMES if (root / n).is_file()), None)
        ids = {name: n for n, name in enumerate(_named(listing, used) if listing else sorted(used))}
        first = _first_pixel(source, [found for objects in read for found in objects])
        annotations = tuple(
            _annotation(image, found, ids[found.name], first)
            for image, objects in zip(images, read, strict=True)
            for found in objects
        )
        categories = tuple(Category(number, name) for name, number in ids.items())
        return cls(source, tuple(images), categories, annotations, listing is not None)


def annotation_folder(root: Path) -> Path | None:
    """The folder of XML files in a folder in VOC's layout; None where it has another layout."""
    folders = (root / name for name in _ANNOTATIONS)
    return next((f for f in folders if f.is_dir() and next(f.glob("*.xml"), None)), None)


def read_objects(path: Path) -> list[_Object]:
    """The boxes of a file of annotations.

    Raises:
        DataError: It is none, or a box is wrong; names the file and the object.
    """
    text = read_text(path, _MOST_XML, DataError)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # entities can grow without measure
        raise DataError(f"{path}: declares a document type, which annotations have no need of")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: not XML: {shown(str(error), 100)}") from None
    found = root.findall("object")
    if root.tag != "annotation" or len(found) > _MOST_OBJECTS:
        raise DataError(f"{path}: no <annotation> of at most {_MOST_OBJECTS} objects")
    return [_object(path, number, element) for number, element in enumerate(found, 1)]


def _object(path: Path, number: int, element: ElementTree.Element) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not (name.isprintable() and 0 < len(name) <= _LONGEST_NAME):
        raise DataError(f"{path}: object {number} has the name {shown(name, 80)}; change it")
    written = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (float(value or "none") for value in written)
    except ValueError:
        left = top = right = bottom = math.nan
    # Comparisons with NaN are false.
    if not (-_LARGEST < left <= right < _LARGEST and -_LARGEST < top <= bottom < _LARGEST):
        raise DataError(
            f"{path}: object {number} ({shown(name, 60)}): xmin, ymin, xmax, ymax are "
            f"{shown(written, 120)}; a bndbox has four numbers, the smaller first"
        )
    difficult = (element.findtext("difficult") or "0").strip()
    return _Object(name, (left, top, right, bottom), difficult not in ("0", ""))


def _first_pixel(source: Path, objects: Sequence[_Object]) -> int:
    """What the first pixel of an image is called: 1, as the format has it, or 0."""
    if min(min(found.corners[:2]) for found in objects) >= 1:
        return 1
    note(f"{source}: boxes begin at 0, so that pixels are taken to count from 0, not from 1")
    return 0


def _annotation(image: ImageFile, found: _Object, category: int, first: int) -> Annotation:
    left, top, right, bottom = found.corners
    left, top = left - first, top - first
    width, height = right - left, bottom - top
    return Annotation(
        image.id, category, (left, top, width, height), width * height, found.difficult
    )


def _named(listing: Path, used: Collection[str]) -> list[str]:
    """The names in a list of classes; raises DataError where annotations use others."""
    lines = read_text(listing, _MOST_XML, DataError).splitlines()
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if unknown := sorted(set(used) - set(names)):
        raise DataError(
            f"{listing}: lacks {shown(unknown[0], 60)}, which annotations use; add it, or remove "
            "the file"
        )
    if wrong := [name for name in names if not (name.isprintable() and len(name) < _LONGEST_NAME)]:
        raise DataError(f"{listing}: {shown(wrong[0], 60)} is no name of a class")
    return names


def _listed(source: Path) -> list[str]:
    """The names in a list; VOC's lists of one class mark with -1 what does not show it."""
    found = []
    for number, line in enumerate(read_text(source, _MOST_LIST, DataError).splitlines(), 1):
        if not (words := line.split()):
            continue
        name = words[0]
        if not name.isprintable() or "/" in name or "\\" in name or ".." in name or len(name) > 200:
            raise DataError(f"{source}: line {number}: {shown(name, 80)} is no name of an image")
        if words[1:] != ["-1"]:
            found.append(name)
    return list(dict.fromkeys(found))


def _annotated(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.xml"))
