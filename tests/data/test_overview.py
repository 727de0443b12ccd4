"""`quantcore data`: what it counts, what it finds wrong, and the pictures that it draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from quantcore.data.coco import CocoDataset

from .formats import write_yolo

Cli = Callable[..., SimpleNamespace]


def test_splits_classes_and_sizes(
    cli: Cli, shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "drawn"
    done = cli("data", shared_squares.data, "--out", out, "--draw", 2, "--open", 5)
    assert done.code == 0, done.err
    assert "train2017: 5 of 6 images were opened" in done.out
    drawn = sorted(out.iterdir())
    assert len(drawn) == 4
    name, _, stem = drawn[0].stem.split("-")
    before = cv2.imread(str(shared_squares.data / name / f"{stem}.png")).astype(int)
    changed = np.abs(before - cv2.imread(str(drawn[0]))).max(axis=2) > 60
    assert 50 < changed.sum() < changed.size / 2
    told = json.loads(cli("data", shared_squares.data, "--json").out)
    assert [one["split"] for one in told["splits"]] == ["train2017", "val2017"]
    for one, images in zip(told["splits"], (6, 8), strict=True):
        coco = CocoDataset.open(shared_squares.data, one["split"])
        red = [a for a in coco.annotations if a.category_id == 1]
        assert (one["images"], one["labelled"], one["opened"]) == (images, images, images)
        assert one["labels"] == {"red": len(red), "blue": 3 * images - len(red)}
        assert one["images_by_class"]["red"] == len({a.image_id for a in red})
        assert one["sizes"] == {"small": 3 * images, "medium": 0, "large": 0}
        assert one["width"] == [128, 128, 128]
        assert one["problems"] == []


def test_everything_that_is_wrong_is_told(
    cli: Cli, shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    coco = CocoDataset.open(shared_squares.data, "val2017")
    source = write_yolo(coco, tmp_path, "train")
    images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
    shutil.copytree(images, tmp_path / "images" / "val")
    (labels / "1.txt").unlink()
    (images / "2.png").unlink()
    (labels / "3.txt").write_text("0 0.5 0.5 0.2 0.2\n" * 2 + "0 1.0 0.5 0.3 0.001\n")
    (labels / "4.txt").write_text("9 0.5 0.5 0.2 0.2\n")
    (images / "5.png").unlink()
    (images / "5.png").write_bytes(b"no image")
    shutil.copy(images / "6.png", images / "again.png")
    cv2.imwrite(str(images / "grey.png"), np.zeros((40, 30), np.uint16))
    source.write_text(source.read_text() + "val: images/val\n")
    done = cli("data", source)
    assert done.code == 0, done.err
    for line in (
        "train: 3 images without a file of labels: 1.png, again.png, grey.png",
        "train: 1 files of labels without an image: 2.txt",
        "train: 1 images with a box that is there twice: 3.png",
        "train: 1 images with a box that leads out of them: 3.png",
        "train: 1 images with a box below one pixel: 3.png",
        "class '9', and the data.yaml names 0 to 1",
        "images that cannot be read: 5.png",
        "images that are there again: ",
        "train: 1 images of 16 bits: grey.png",
        "train: 1 images that are grey: grey.png",
        "images are in train and in val",
    ):
        assert line in done.out, line


def test_what_is_no_data_set_is_one_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("data", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "no images in it" in done.err
