"""Opens a data set by the layout that is there."""

from __future__ import annotations

from pathlib import Path

from quantcore.data.coco import CocoDataset
from quantcore.data.dataset import Dataset
from quantcore.data.folders import FolderDataset, class_folders

#: COCO's names of its splits, and what those who keep a folder for each class call theirs.
_ALSO = {"train2017": "train", "val2017": "val"}


def open_dataset(root: Path, split: str) -> Dataset:
    """One split of a data set, in COCO's layout or with a folder for each class.

    Args:
        root: Folder of the data set.
        split: Its name; see `split_in`.

    Raises:
        DataError: Something is missing or inconsistent; names the file and the entry.
    """
    if _in_folders(root, split_in(root, split)):
        return FolderDataset.open(root, split_in(root, split))
    return CocoDataset.open(root, split)


def split_in(root: Path, split: str) -> str:
    """What a split is called in a data set: of folders, COCO's name stands for the usual one."""
    other = _ALSO.get(split, split)
    return other if not (root / split).exists() and _in_folders(root, other) else split


def _in_folders(root: Path, split: str) -> bool:
    """Whether a split has a folder for each class; annotations are COCO's in any case."""
    return not (root / "annotations").is_dir() and bool(class_folders(root / split))
