"""Opens a data set by what is there; see `LAYOUTS` for what that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from quantcore.data.coco import CocoDataset
from quantcore.data.dataset import Dataset
from quantcore.data.folders import FolderDataset, class_folders
from quantcore.data.unlabelled import UnlabelledImages
from quantcore.data.voc import VocDataset, annotation_folder
from quantcore.data.yolo import YoloDataset, read_description
from quantcore.errors import DataError

#: COCO's names of its splits, and what others call theirs.
_ALSO = {"train2017": ("train", "training"), "val2017": ("val", "valid", "validation")}
_SPLITS = (*_ALSO, *(name for others in _ALSO.values() for name in others), "test")

#: What a data set can be, for people.
LAYOUTS = (
    "a folder in COCO's layout, an annotation file (FILE.json, or FILE.json:FOLDER with the folder "
    "of its images), Ultralytics' data.yaml, a folder in Pascal VOC's layout, a folder for each "
    "class in ROOT/SPLIT/, or a folder of images"
)

_Found = tuple[str, Callable[[], Dataset]]


def open_dataset(where: Path, split: str | Dataset) -> Dataset:
    """One split of a data set.

    Args:
        where: The data set: one of `LAYOUTS`.
        split: Its name; `train2017` and `val2017` also stand for what other layouts call theirs.
            A data set that is open already is given back.

    Raises:
        DataError: Something is missing or inconsistent; names the file and the entry.
    """
    return split if isinstance(split, Dataset) else _find(where, split)[1]()


def split_in(where: Path, split: str | Dataset) -> str:
    """What a split is called in a data set."""
    return split.source.name if isinstance(split, Dataset) else _find(where, split)[0]


def _find(where: Path, split: str) -> _Found:
    """The name of a split in what is there, and what opens it."""
    names = (split, *_ALSO.get(split, ()))
    if where.suffix.lower() in (".yaml", ".yml"):
        return _described(where, names)
    if (file := _annotation_file(where)) is not None:
        return _annotated(*file)
    if not where.is_dir():
        what = "is a file" if where.exists() else "no such data set folder"
        raise DataError(f"{where}: {what}; give {LAYOUTS}")
    ways = (_coco, _files, _exported, _yaml_inside, _voc, _class_folders, _images)
    found = (way(where, names) for way in ways)
    return next(way for way in found if way is not None)


def _first(names: Iterable[str], there: Callable[[str], bool]) -> str | None:
    return next((name for name in names if there(name)), None)


def _annotation_file(where: Path) -> tuple[Path, Path | None] | None:
    """An annotation file, and the folder of images that was given with it."""
    file, colon, folder = str(where).partition(".json:")
    if colon:
        return Path(f"{file}.json"), Path(folder)
    return (where, None) if where.suffix.lower() == ".json" else None


def _annotated(source: Path, folder: Path | None) -> _Found:
    """One file of COCO's annotations; without a folder, its images lie where COCO's do."""
    name = source.stem.removeprefix("instances_")
    if folder is None:
        root = source.parent.parent if source.parent.name == "annotations" else source.parent
        near = (root / "images" / name, root / name, root / "images")
        folder = next((place for place in near if place.is_dir()), source.parent)
    images = folder
    return name, lambda: CocoDataset.read(source, images)


def _described(source: Path, names: tuple[str, ...]) -> _Found:
    described = read_description(source)
    name = _first(names, described.__contains__) or names[min(1, len(names) - 1)]
    return name, lambda: YoloDataset.open(source, name)


def _coco(root: Path, names: tuple[str, ...]) -> _Found | None:
    folder = root / "annotations"
    name = _first(names, lambda n: (folder / f"instances_{n}.json").exists())
    others = annotation_folder(root) == folder or _files(root, names) is not None
    if name is None and (not folder.is_dir() or others):
        return None
    split = name or names[0]
    return split, lambda: CocoDataset.open(root, split)


def _files(root: Path, names: tuple[str, ...]) -> _Found | None:
    """Annotation files with the names of the splits alone: `annotations/val.json`, `val.json`."""
    files = (root / at / f"{name}.json" for name in names for at in ("annotations", ""))
    source = next((file for file in files if file.is_file()), None)
    return None if source is None else _annotated(source, None)


def _exported(root: Path, names: tuple[str, ...]) -> _Found | None:
    """Annotations beside the images of each split, as Roboflow exports them."""
    name = _first(names, lambda n: (root / n / "_annotations.coco.json").is_file())
    if name is None:
        return None
    source = root / name / "_annotations.coco.json"
    return name, lambda: CocoDataset.read(source, source.parent)


def _yaml_inside(root: Path, names: tuple[str, ...]) -> _Found | None:
    source = root / "data.yaml"
    return _described(source, names) if source.is_file() else None


def _voc(root: Path, names: tuple[str, ...]) -> _Found | None:
    if annotation_folder(root) is None:
        return None
    name = _first(names, lambda n: (root / "ImageSets" / "Main" / f"{n}.txt").is_file())
    name = name or names[min(1, len(names) - 1)]
    return name, lambda: VocDataset.open(root, name)


def _class_folders(root: Path, names: tuple[str, ...]) -> _Found | None:
    name = _first(names, lambda n: bool(class_folders(root / n)))
    return (name, lambda: FolderDataset.open(root, name)) if name is not None else None


def _images(root: Path, names: tuple[str, ...]) -> _Found:
    """Images without labels: those of the split, or all where there are no splits."""
    splits = [root / at / name for at in ("images", "") for name in _SPLITS]
    within = [root / at / name for at in ("images", "") for name in names]
    other = root / names[0] if any(place.is_dir() for place in splits) else root
    folder = next((place for place in within if place.is_dir()), other)
    return folder.name, lambda: UnlabelledImages.open(folder)
