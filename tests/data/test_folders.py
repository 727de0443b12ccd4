"""A folder for each class: order, classes, and how the layout of a data set is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from quantcore.data.coco import CocoDataset
from quantcore.data.folders import FolderDataset
from quantcore.data.images import read_image
from quantcore.data.opening import open_dataset, split_in
from quantcore.errors import DataError


def write(root: Path, split: str, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / f"{i}.png"), np.full((4 + i, 6, 3), 9, np.uint8))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "train", {"cat": 3, "dog": 2})
    return write(tmp_path, "val", {"dog": 1, "cat": 2})


def test_folders_are_classes_by_name(root: Path) -> None:
    (root / "val" / "cat" / "notes.txt").write_text("not an image")
    (root / "val" / ".cache").mkdir()
    (root / "val" / "readme.md").write_text("not a class")
    found = FolderDataset.open(root, "val")
    assert [category.name for category in found.categories] == ["cat", "dog"]
    assert [image.path.relative_to(root / "val") for image in found.images] == [
        Path("cat/0.png"),
        Path("cat/1.png"),
        Path("dog/0.png"),
    ]
    assert [found.labels[image.id] for image in found.images] == [0, 0, 1]
    assert found.labelled([2])
    assert not found.labelled([])


def test_images_of_any_size_are_read(root: Path) -> None:
    sizes = [read_image(image).shape for image in FolderDataset.open(root, "train").images]
    assert sizes == [(4, 6, 3), (5, 6, 3), (6, 6, 3), (4, 6, 3), (5, 6, 3)]


def test_a_sample_is_seeded(root: Path) -> None:
    found = FolderDataset.open(root, "train")
    assert found.select(2, 1) == found.select(2, 1)
    assert len(found.select(2)) == 2
    assert found.select() == found.images


def test_labels_are_in_the_key(root: Path) -> None:
    found = FolderDataset.open(root, "train")
    moved = FolderDataset(found.source, found.images, found.categories, {**found.labels, 0: 1})
    assert found.labels_of(found.images) != moved.labels_of(found.images)
    assert found.labels_of(found.images[1:]) == moved.labels_of(found.images[1:])


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("cat", "dog"), (0, 1)),
        (("dog", "cat"), (1, 0)),
        (("class0", "class1"), (0, 1)),
        (("bird", "dog", "cat"), (2, 1, 0)),
    ],
)
def test_classes_by_name_else_in_order(
    root: Path, names: tuple[str, ...], ids: tuple[int, ...]
) -> None:
    assert FolderDataset.open(root, "val").check_classes(names) == ids


def test_other_classes_are_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"knows 3 classes, .* has 2 folders, among them 'dog'"):
        FolderDataset.open(root, "val").check_classes(("bird", "fish", "cat"))


def test_no_images_are_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no images in folders of their classes"):
        open_dataset(tmp_path, "val")


def test_the_layout_is_told_by_what_is_there(
    root: Path, write_coco: Callable[..., Path], tmp_path: Path
) -> None:
    assert isinstance(open_dataset(root, "val"), FolderDataset)
    assert open_dataset(root, "val2017").source == root / "val"
    assert (split_in(root, "train2017"), split_in(root, "test")) == ("train", "test")
    with pytest.raises(DataError, match=r"test: no such image folder"):
        open_dataset(root, "test")
    coco = write_coco()
    (coco / "val2017" / "folder").mkdir()
    assert isinstance(open_dataset(coco, "val2017"), CocoDataset)
    assert split_in(coco, "val2017") == "val2017"
