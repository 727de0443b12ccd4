"""The same boxes in every format: the same labels, the same mAP; and what each format refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import quantcore
from quantcore.data.boxes import BoxDataset
from quantcore.data.coco import CocoDataset
from quantcore.data.folders import FolderDataset
from quantcore.data.opening import open_dataset, split_in
from quantcore.data.unlabelled import UnlabelledImages
from quantcore.data.voc import VocDataset
from quantcore.data.yolo import YoloDataset, label_file, read_labels
from quantcore.errors import DataError
from quantcore.evaluation.coco import score
from quantcore.evaluation.detections import Detections
from quantcore.runtime.notes import Note

from .formats import write_voc, write_yolo


def found_in(data: BoxDataset, names: Sequence[str], seed: int = 0) -> Detections:
    """The truth of a data set, shaken, with some inventions; the same for copies of it."""
    by_image, ids = {}, data.check_classes(names)
    index = {category: n for n, category in enumerate(ids)}
    for image in sorted(data.images, key=lambda image: image.path.name):
        rng = np.random.default_rng([seed, *image.path.stem.encode()])
        truth = sorted((*a.bbox, index[a.category_id]) for a in data.annotations_of([image]))
        rows = []
        for x, y, w, h, kind in truth:
            shaken = np.array([x, y, x + w, y + h]) + rng.normal(0, np.array([w, h, w, h]) / 16)
            rows.append([*shaken, rng.random(), kind])
            rows.append([*(shaken + 9), rng.random(), int(rng.integers(len(names)))])
        by_image[image.id] = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(by_image, ids)


def again(found: Detections, data: BoxDataset, other: BoxDataset, names: Sequence[str]) -> float:
    """The mAP of what was found in a data set, against another's labels of the same images."""
    ids = {image.path.name: image.id for image in other.images}
    moved = {ids[i.path.name]: found.by_image[i.id] for i in data.images}
    figure = score(other, Detections(moved, other.check_classes(names))).figures["map"]
    assert figure is not None
    return figure


def check_copies(coco: CocoDataset, folder: Path) -> None:
    names = [category.name for category in coco.categories]
    found = found_in(coco, names)
    voc = open_dataset(write_voc(coco, folder / "voc"), "val2017")
    assert isinstance(voc, VocDataset)
    whole = score(coco, found).figures["map"]
    assert whole is not None
    assert 0.05 < whole < 0.95
    assert again(found, coco, voc, names) == pytest.approx(whole, abs=1e-9)
    # YOLO's format has no crowds.
    counted = replace(coco, annotations=tuple(a for a in coco.annotations if not a.iscrowd))
    yolo = open_dataset(write_yolo(coco, folder / "yolo"), "val2017")
    assert isinstance(yolo, YoloDataset)
    expected = score(counted, found).figures["map"]
    assert again(found, coco, yolo, names) == pytest.approx(expected, abs=1e-9)


def test_copies_have_the_same_map(write_coco: Callable[..., Path], tmp_path: Path) -> None:
    def more(data: dict) -> None:
        rng = np.random.default_rng(0)
        for n in range(30):
            x, y = (float(v) for v in rng.uniform(0, 20, 2))
            box = [x, y, float(rng.uniform(4, 18)), float(rng.uniform(3, 9))]
            kind, crowd = (7, 3)[n % 2], int(n % 11 == 0)
            image = data["images"][n % 5]["id"]
            given = {"id": 50 + n, "image_id": image, "category_id": kind, "bbox": box}
            data["annotations"].append(given | {"iscrowd": crowd})

    check_copies(CocoDataset.open(write_coco(change=more), "val2017"), tmp_path / "copies")


@pytest.mark.shared
def test_copies_of_coco_mini_have_the_same_map(shared: Path, tmp_path: Path) -> None:
    check_copies(CocoDataset.open(shared / "data" / "coco-mini", "val2017"), tmp_path)


@pytest.mark.shared
def test_coco128_as_it_is(shared: Path) -> None:
    yolo = open_dataset(shared / "data" / "coco128" / "data.yaml", "val2017")
    coco = open_dataset(shared / "data" / "coco128", "train2017")
    assert isinstance(yolo, YoloDataset)
    assert isinstance(coco, CocoDataset)
    with pytest.warns(Note) as told:
        labels = yolo.annotations_of(yolo.images)
    said = "\n".join(str(one.message) for one in told)
    assert "2 of 128 images have no file of labels" in said
    assert "2 files of labels have no image" in said
    assert [p.stem for p in yolo.orphans()] == ["000000000656", "000000000659"]
    yolo.annotations_of(yolo.images)  # and told once
    assert len(told) == 2
    kinds = {c.id: c.name for c in (*coco.categories,)}
    files = {i.id: i.path.name for i in coco.images}
    known: dict[tuple[str, str], list] = {}
    for a in coco.annotations:
        known.setdefault((files[a.image_id], kinds[a.category_id]), []).append(a.bbox)
    assert len(labels) == sum(not a.iscrowd for a in coco.annotations)
    for a in labels:
        path, name = yolo.images[a.image_id].path.name, yolo.categories[a.category_id].name
        assert min(np.abs(np.subtract(a.bbox, b)).max() for b in known[path, name]) < 0.51


@pytest.fixture
def yolo(tmp_path: Path) -> Callable[..., Path]:
    """Writes three images of 40 x 30 pixels, labels, and a data.yaml of the given text."""

    def write(text: str = "train: images\nnames: [cat, dog]\n", labels: str = "") -> Path:
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for n in range(3):
            cv2.imwrite(str(tmp_path / "images" / f"{n}.png"), np.full((30, 40, 3), n, np.uint8))
        (tmp_path / "labels" / "1.txt").write_text(labels)
        (tmp_path / "data.yaml").write_text(text)
        return tmp_path / "data.yaml"

    return write


def test_boxes_and_outlines(yolo: Callable[..., Path]) -> None:
    source = yolo(labels="1 0.5 0.5 0.5 0.2\n\n0 0.1 0.1 0.4 0.1 0.4 0.3 0.1 0.3\n")
    data = YoloDataset.open(source, "train")
    with pytest.warns(Note, match=r"2 of 3 images have no file of labels, such as '0\.png'"):
        first, second = data.annotations_of(data.images)
    assert first.bbox == pytest.approx((10, 12, 20, 6))
    assert (first.category_id, first.area) == (1, pytest.approx(120))
    assert second.bbox == pytest.approx((4, 3, 12, 6))
    assert data.labelled([1])
    assert not data.labelled([0, 2])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("train: images\nnames: {1: dog, 0: cat}\n", 3),
        ("train: [images, images]\nnames: [cat, dog]\n", 3),
        ("path: /nowhere/at/all\ntrain: ../images\nnc: 2\nnames: [cat, 7]\n", 3),
        ("train: list.txt\nnc: 2\n", 2),
        ("train2017: images\nnames: ['no', dog]\n", 3),
    ],
)
@pytest.mark.filterwarnings("ignore::quantcore.runtime.notes.Note")
def test_ways_of_a_data_yaml(yolo: Callable[..., Path], text: str, count: int) -> None:
    source = yolo(text)
    (source.parent / "list.txt").write_text("./images/0.png\n\nimages/2.png\n./images/0.png\n")
    data = open_dataset(source, "train2017")
    assert len(data.images) == count
    assert all(image.path.is_file() for image in data.images)
    assert len(data.categories) == 2
    assert open_dataset(source.parent, "train2017") == data  # a data.yaml in the folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML"),
        ("a: 1\n", "no `names`"),
        ("names: [a]\n", "'train' is None; give a folder .* has none"),
        ("val: images\nnames: [a]\n", "the file has 'val'"),
        ("train: 7\nnames: [a]\n", "'train' is 7"),
        ("train: nowhere\nnames: [a]\n", "nowhere.: no such folder of images"),
        ("train: labels\nnames: [a]\n", "no images in 'labels'"),
        ("train: images\nnames: [a, a]\n", "'a' stands for two classes"),
        ("train: images\nnames: [a, no]\n", "class 1 reads as False in YAML; quote"),
        ("train: images\nnames: {0: a, 2: b}\n", "not 0 to 1"),
        ("train: images\nnames: []\n", "not a list of names"),
        ("train: images\nnc: 3\nnames: [a, b]\n", "nc is 3, and there are 2 names"),
        ("train: images\npath: [1]\nnames: [a, b]\n", "`path` is"),
    ],
)
def test_a_data_yaml_that_is_none(yolo: Callable[..., Path], text: str, message: str) -> None:
    source = yolo(text)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(source, "train2017")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat 0.5 0.5 0.1 0.1", "line 1 is 'cat"),
        ("0 0.5 0.5 0.1", "a line holds class, x, y"),
        ("0 0.5 0.5 0.1 0.1 0.9", "a line holds"),
        ("2 0.5 0.5 0.1 0.1", "class '2', and the data.yaml names 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "class '0.5'"),
        ("0 20 15 8 8", "leads out of the image"),
        ("0 nan 0.5 0.1 0.1", "leads out"),
        ("0 0.5 0.5 -0.005 0.1", "negative size"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "a.txt", 2)


def test_labels_lie_beside_images_or_in_labels(tmp_path: Path) -> None:
    (tmp_path / "labels" / "val").mkdir(parents=True)
    assert label_file(tmp_path / "images/val/a.jpg") == tmp_path / "labels/val/a.txt"
    assert label_file(tmp_path / "images/train/a.jpg") == tmp_path / "images/train/a.txt"
    assert label_file(tmp_path / "a.jpg") == tmp_path / "a.txt"


def test_a_box_that_is_there_twice_counts_once(yolo: Callable[..., Path]) -> None:
    row = "1 0.5 0.5 0.5 0.2\n"
    data = YoloDataset.open(yolo(labels=row + row), "train")
    with pytest.warns(Note, match="1 boxes are there twice"):
        assert len(data.annotations_of(data.images[1:2])) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not XML"),
        ("<a/>", "no <annotation>"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', "document type"),
        ("<annotation><object/></annotation>", "object 1 has the name ''"),
        ("<annotation><object><name>a</name></object></annotation>", "has four numbers"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>9</xmin><ymin>1</ymin><xmax>8</xmax>"
            "<ymax>nan</ymax></bndbox></object></annotation>",
            "the smaller first",
        ),
    ],
)
def test_annotations_of_voc_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, "val2017")


def test_pixels_of_voc_count_from_1_unless_some_count_from_0(
    write_coco: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_voc(CocoDataset.open(write_coco(), "val2017"), tmp_path / "voc")
    data = VocDataset.open(root, "val")
    assert data.annotations[0].bbox == (1, 2, 10.5, 8)
    file = root / "Annotations" / "100.xml"
    file.write_text(file.read_text().replace("<xmin>2.0</xmin>", "<xmin>0</xmin>"))
    with pytest.warns(Note, match="count from 0"):
        assert VocDataset.open(root, "val").annotations[0].bbox == (0, 3, 11.5, 7)
    with pytest.warns(Note, match="'class0' where that has 'cat'; these classes are matched by"):
        assert data.check_classes(["class0"]) == (0,)
    (root / "label_list.txt").write_text("bird\ncat\n")
    assert VocDataset.open(root, "val").check_classes(["0", "1"]) == (0, 1)
    (root / "label_list.txt").write_text("bird\n")
    with pytest.raises(DataError, match="lacks 'cat'"):
        VocDataset.open(root, "val")
    with pytest.raises(DataError, match=r"nothing.txt: no such list of images; there are val"):
        VocDataset.open(root, "nothing")


def test_an_annotation_file_with_its_images(
    write_coco: Callable[..., Path], tmp_path: Path
) -> None:
    root = write_coco()
    expected = CocoDataset.open(root, "val2017")
    file = root / "annotations" / "instances_val2017.json"
    assert open_dataset(file, "train2017") == expected
    moved = (root / "val2017").rename(tmp_path / "elsewhere")
    found = open_dataset(Path(f"{file}:{moved}"), "train2017")
    assert [image.path.parent for image in found.select()] == [moved] * 5
    assert split_in(file, "train2017") == "val2017"
    short = tmp_path / "short"
    (short / "annotations").mkdir(parents=True)
    (short / "annotations" / "val.json").write_bytes(file.read_bytes())
    (short / "images").symlink_to(moved)
    assert len(open_dataset(short, "val2017").select()) == 5
    assert split_in(short, "val2017") == "val"
    exported = tmp_path / "exported" / "valid"
    exported.parent.mkdir()
    moved.rename(exported)
    file.rename(exported / "_annotations.coco.json")
    assert len(open_dataset(exported.parent, "val2017").select()) == 5
    assert split_in(exported.parent, "val2017") == "valid"


def test_a_plain_folder_of_images(write_coco: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_coco() / "val2017"
    plain = open_dataset(folder, "train2017")
    assert isinstance(plain, UnlabelledImages)
    assert len(plain.select()) == 5
    assert not plain.labelled([0])
    with pytest.raises(DataError, match="images without labels"):
        plain.check_classes(["a"])
    (tmp_path / "empty").mkdir()
    for where, message in (("empty", "no images in it"), ("nowhere", "no such data set folder")):
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / where, "train2017")


def test_a_split_that_is_missing_is_not_replaced_by_another(yolo: Callable[..., Path]) -> None:
    root = yolo().parent
    (root / "data.yaml").unlink()
    (root / "images" / "val").mkdir()
    with pytest.raises(DataError, match="train2017: no such image folder"):
        open_dataset(root, "train2017")


def test_a_data_set_of_ones_own() -> None:
    boxes = quantcore.dataset([("a.jpg", [(1, 2, 3, 4, 5)]), ("b.jpg", [])], ["cat", "dog"])
    assert isinstance(boxes, BoxDataset)
    (only,) = boxes.annotations_of(boxes.images)
    assert (only.category_id, only.bbox, only.area) == (1, (2, 3, 4, 5), 20)
    assert boxes.check_classes(["dog", "cat"]) == (1, 0)
    kinds = quantcore.dataset([("a.jpg", 1), ("b.jpg", 0)], ["cat", "dog"])
    assert isinstance(kinds, FolderDataset)
    assert kinds.labels == {0: 1, 1: 0}
    assert isinstance(quantcore.dataset(["a.jpg"]), UnlabelledImages)
    assert quantcore.Data.of(boxes).evaluation is boxes


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        (["a.jpg", ("b.jpg", 1)], "a class and unlabelled"),
        ([("a.jpg", 2)], "class 2; there are 2 names"),
        ([("a.jpg", [(0, 1, 2, 3)])], "a box is class index"),
        ([("a.jpg", [(0, 1, 2, -3, 4)])], "a box is class index"),
        ([("a.jpg", [(0.5, 1, 2, 3, 4)])], "class 0.5"),
    ],
)
def test_a_data_set_of_ones_own_that_is_none(images: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quantcore.dataset(images, ["cat", "dog"])
