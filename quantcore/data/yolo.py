"""Ultralytics' data.yaml: folders or lists of images, with a text file of boxes beside each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantcore.data.boxes import Annotation, BoxDataset
from quantcore.data.dataset import Category, ImageFile
from quantcore.data.files import images_below
from quantcore.data.images import image_size
from quantcore.errors import DataError
from quantcore.reading import MOST_YAML, parse_yaml, read_text
from quantcore.runtime.notes import note
from quantcore.showing import shown

#: Bytes of a file of labels, and of a list of images.
_MOST_LABELS, _MOST_LIST = 1 << 20, 1 << 27
#: Classes, and characters of a name of one.
_MOST_NAMES, _LONGEST_NAME = 10_000, 200
#: Characters of a path.
_LONGEST_PATH = 1000
#: How far rounding may put a coordinate outside of its image, in shares of its side.
_SLACK = 0.01

#: A class and its box: center x, center y, width, height in shares of the image's sides.
_Row = tuple[int, float, float, float, float]


@dataclass(frozen=True)
class YoloDataset(BoxDataset):
    """One split of a data.yaml. Labels are read when they are asked for.

    Attributes:
        source: The data.yaml.
        images: By path, or in the order of the list; ids count from 0.
        categories: Ids are class indices.
    """

    source: Path
    images: tuple[ImageFile, ...]
    categories: tuple[Category, ...]
    _read: dict[int, tuple[Annotation, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def open(cls, source: Path, split: str) -> YoloDataset:
        """Lists the images of one key of a data.yaml.

        Args:
            source: The file. Its `path` and what is given for the split are relative to it.
            split: `train`, `val`, or another key.

        Raises:
            DataError: The file is no good, or the split has no images; says what is wrong.
        """
        described = read_description(source)
        given = described.get(split)
        places = [p for p in (given if isinstance(given, list) else [given]) if isinstance(p, str)]
        if not (places and all(places)) or len(places) != (
            len(given) if isinstance(given, list) else 1
        ):
            raise DataError(
                f"{source}: {split!r} is {shown(given)}; give a folder of images, a list file, or "
                f"several; the file has {', '.join(map(shown, splits_of(described))) or 'none'}"
            )
        root = _root(source, described)
        listed = [path for place in places for path in _listed(source, root, place)]
        paths = list(dict.fromkeys(listed))
        if len(paths) < len(listed):
            note(f"{source}: {len(listed) - len(paths)} images of {split!r} are listed twice")
        if not paths:
            raise DataError(f"{source}: no images in {shown(given)}, which {split!r} names")
        categories = tuple(Category(n, name) for n, name in enumerate(_names(source, described)))
        images = tuple(ImageFile(n, path) for n, path in enumerate(paths))
        return cls(source, images, categories)

    def annotations_of(self, images: Sequence[ImageFile]) -> tuple[Annotation, ...]:
        """See BoxDataset. An image without a file of labels has no objects, which is told."""
        bare, doubled = [], 0
        if not self._read:
            self._tell_orphans()
        for image in images:
            if image.id in self._read:
                continue
            rows = self._rows(image)
            if rows is None:
                bare.append(image.path.name)
                rows = []
            kept = list(dict.fromkeys(rows))
            doubled += len(rows) - len(kept)
            self._read[image.id] = _annotations(image, kept)
        if bare:
            note(
                f"{self.source}: {len(bare)} of {len(images)} images have no file of labels, such "
                f"as {shown(min(bare), 60)}; they count as images without objects"
            )
        if doubled:
            note(f"{self.source}: {doubled} boxes are there twice; each is taken once")
        return tuple(a for image in images for a in self._read[image.id])

    def labelled(self, ids: Collection[int]) -> bool:
        """See Dataset; tells nothing."""
        wanted = set(ids)
        return any(self._rows(image) for image in self.images if image.id in wanted)

    def odd(self) -> Mapping[str, Sequence[str]]:
        """See BoxDataset; files that are no labels at all are left to `annotations_of`."""
        bare, twice = [], []
        for image in self.images:
            try:
                rows = self._rows(image)
            except DataError:
                continue
            if rows is None:
                bare.append(image.path.name)
            elif len(set(rows)) < len(rows):
                twice.append(image.path.name)
        return {
            "images without a file of labels": bare,
            "files of labels without an image": [path.name for path in self.orphans()],
            "images with a box that is there twice": twice,
        }

    def _rows(self, image: ImageFile) -> list[_Row] | None:
        """The boxes of an image as its file has them; None where there is none."""
        path = label_file(image.path)
        return read_labels(path, len(self.categories)) if path.exists() else None

    def orphans(self) -> list[Path]:
        """Files of labels whose image is not there, in folders of nothing but labels."""
        folders = {label_file(image.path).parent: image.path.parent for image in self.images}
        return [
            path
            for labels, images in sorted(folders.items())
            if labels != images
            for known in [{image.stem for image in images.iterdir()}]
            for path in sorted(labels.glob("*.txt"))
            if path.stem not in known
        ]

    def _tell_orphans(self) -> None:
        if found := self.orphans():
            note(
                f"{self.source}: {len(found)} files of labels have no image, such as "
                f"{shown(found[0].name, 60)}; are all images there?"
            )


def read_description(source: Path) -> dict[str, Any]:
    """The values of a data.yaml; raises DataError where it is none."""
    try:
        found = parse_yaml(read_text(source, MOST_YAML, DataError))
    except ValueError as error:
        raise DataError(f"{source}: not YAML: {error}") from None
    if not isinstance(found, dict) or not {"names", "nc"} & found.keys():
        raise DataError(f"{source}: no description of a data set: it has no `names`")
    return found


def splits_of(described: dict[str, Any]) -> list[str]:
    """The keys of a data.yaml that name images."""
    known = ("train", "val", "test")
    return [key for key in known if isinstance(described.get(key), str | list)]


def label_file(image: Path) -> Path:
    """Where the labels of an image lie.

    In `labels/` instead of the last `images/` of the path, or beside the image.
    """
    parts = list(image.parts)
    at = next((n for n in range(len(parts) - 2, -1, -1) if parts[n] == "images"), None)
    if at is not None:
        folder = Path(*parts[:at], "labels", *parts[at + 1 : -1])
        if folder.is_dir():
            return folder / f"{image.stem}.txt"
    return image.with_suffix(".txt")


def read_labels(path: Path, classes: int) -> list[_Row]:
    """The boxes of a file of labels; of an outline its bounding box.

    Args:
        path: Lines of `class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...`, in shares of the
            image's sides.
        classes: How many there are.

    Raises:
        DataError: A line is something else; names it.
    """
    found = []
    for line, text in enumerate(read_text(path, _MOST_LABELS, DataError).splitlines(), 1):
        if not (columns := text.split()):
            continue
        try:
            numbers = [float(column) for column in columns]
        except ValueError:
            numbers = []
        outline = len(numbers) >= 7 and len(numbers) % 2
        if len(numbers) != 5 and not outline:
            raise DataError(
                f"{path}: line {line} is {shown(text, 80)}; a line holds class, x, y, width and "
                "height, or a class and the corners of an outline"
            )
        index, values = numbers[0], numbers[1:]
        if not (0 <= index < classes and index == int(index)):
            raise DataError(
                f"{path}: line {line}: class {shown(columns[0], 40)}, and the data.yaml names 0 to "
                f"{classes - 1}; correct either"
            )
        if not all(-_SLACK <= value <= 1 + _SLACK for value in values):  # false for NaN
            raise DataError(
                f"{path}: line {line}: {shown(text, 80)} leads out of the image; coordinates are "
                "shares of its width and height, from 0 to 1"
            )
        if outline:
            (left, right), (top, bottom) = _ends(values[::2]), _ends(values[1::2])
            values = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        x, y, width, height = values
        if min(width, height) < 0:
            raise DataError(f"{path}: line {line}: a box of negative size: {shown(text, 80)}")
        found.append((int(index), x, y, width, height))
    return found


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _annotations(image: ImageFile, rows: Sequence[_Row]) -> tuple[Annotation, ...]:
    if not rows:
        return ()
    across, down = image_size(image.path)
    found = []
    for index, x, y, w, h in rows:
        width, height = w * across, h * down
        box = (x * across - width / 2, y * down - height / 2, width, height)
        found.append(Annotation(image.id, index, box, width * height, False))
    return tuple(found)


def _names(source: Path, described: dict[str, Any]) -> list[str]:
    """The names of the classes, in order of their indices."""
    given, count = described.get("names"), described.get("nc")
    if given is None and isinstance(count, int) and 0 < count <= _MOST_NAMES:
        given = [f"class{n}" for n in range(count)]
    if isinstance(given, dict):
        if sorted(map(str, given)) != sorted(map(str, range(len(given)))):
            raise DataError(f"{source}: the keys of `names` are not 0 to {len(given) - 1}")
        given = [name for _, name in sorted((int(key), name) for key, name in given.items())]
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_NAMES:
        raise DataError(f"{source}: `names` is {shown(given, 80)}, not a list of names")
    names = [str(n) if isinstance(n, int) and not isinstance(n, bool) else n for n in given]
    for index, name in enumerate(names):
        if isinstance(name, bool) or name is None:
            raise DataError(f"{source}: class {index} reads as {name} in YAML; quote its name")
        if not (isinstance(name, str) and name.isprintable() and 0 < len(name) <= _LONGEST_NAME):
            raise DataError(f"{source}: the name of class {index} is {shown(name, 80)}; change it")
    if len(set(names)) < len(names):
        twice = next(name for n, name in enumerate(names) if name in names[:n])
        raise DataError(f"{source}: the name {shown(twice, 80)} stands for two classes; change one")
    if isinstance(count, int) and count != len(names):
        raise DataError(f"{source}: nc is {count}, and there are {len(names)} names; correct one")
    return names


def _root(source: Path, described: dict[str, Any]) -> Path:
    """Where the splits are relative to: `path`, itself relative to the file."""
    given = described.get("path")
    if given in (None, ""):
        return source.parent
    if not isinstance(given, str):
        raise DataError(f"{source}: `path` is {shown(given, 80)}, not a folder")
    folder = source.parent / given  # an absolute `path` stands for itself
    if _is_folder(folder):
        return folder
    # Written on another machine, or relative to a folder of all data sets.
    note(f"{source}: no folder {shown(given, 80)}, which `path` names; its own folder is taken")
    return source.parent


def _listed(source: Path, root: Path, place: str) -> Iterator[Path]:
    """The images of a folder or of a list file."""
    found = root / place
    if not _exists(found) and place.startswith("../"):  # as some tools write beside the images
        found = root / place[3:]
    if _is_folder(found):
        yield from images_below(found)
    elif found.suffix == ".txt" and _exists(found):
        for line in read_text(found, _MOST_LIST, DataError).splitlines():
            if written := line.strip():
                if not (written.isprintable() and len(written) <= _LONGEST_PATH):
                    raise DataError(f"{found}: {shown(written, 80)} is no path of an image")
                yield _either(found.parent / written, root / written)
    else:
        raise DataError(
            f"{shown(str(found), 300)}: no such folder of images, nor a list of them (.txt), which "
            f"{source} names"
        )


def _either(path: Path, other: Path) -> Path:
    return other if not _exists(path) and _exists(other) else path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False


def _is_folder(path: Path) -> bool:
    return _exists(path) and path.is_dir()
