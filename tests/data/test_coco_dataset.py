"""CocoDataset: order, sampling, classes, and every way in which the files can be wrong."""

import json

import pytest

from quantcore.data.coco import CocoDataset
from quantcore.errors import DataError
from quantcore.runtime.notes import Note


def test_reads_in_file_order(write_coco):
    dataset = CocoDataset.open(write_coco(), "val2017")
    assert [i.id for i in dataset.images] == [100, 93, 86, 79, 72]
    assert [c.name for c in dataset.categories] == ["dog", "cat"]
    assert dataset.annotations[0].bbox == (1.0, 2.0, 10.5, 8.0)
    assert dataset.annotations[0].area == 50.25
    assert dataset.images[0].path.name == "100.jpg"


def test_a_file_is_read_once_until_it_changes(write_coco):
    root = write_coco()
    first = CocoDataset.open(root, "val2017")
    assert CocoDataset.open(root, "val2017") is first
    source = root / "annotations" / "instances_val2017.json"
    source.write_text(source.read_text().replace('"dog"', '"fox"'))
    again = CocoDataset.open(root, "val2017")
    assert [c.name for c in again.categories] == ["fox", "cat"]
    source.unlink()
    with pytest.raises(DataError, match="no such annotation file"):
        CocoDataset.open(root, "val2017")


def test_area_defaults_to_the_box(write_coco):
    root = write_coco(change=lambda d: [a.pop("area") for a in d["annotations"]])
    assert CocoDataset.open(root, "val2017").annotations[0].area == 84.0


def test_select_is_seeded_and_in_file_order(write_coco):
    dataset = CocoDataset.open(write_coco(20), "val2017")
    first = dataset.select(7, seed=3)
    assert first == dataset.select(7, seed=3)
    assert first != dataset.select(7, seed=4)
    assert len(set(first)) == 7
    assert list(first) == [i for i in dataset.images if i in first]


@pytest.mark.parametrize("count", [None, 5, 6, 10_000])
def test_select_takes_all(write_coco, count):
    dataset = CocoDataset.open(write_coco(5), "val2017")
    assert dataset.select(count) == dataset.images


def test_select_refuses_nothing(write_coco):
    with pytest.raises(DataError, match="cannot select 0 images"):
        CocoDataset.open(write_coco(), "val2017").select(0)


def test_select_checks_files_up_front(write_coco):
    root = write_coco()
    dataset = CocoDataset.open(root, "val2017")
    (root / "val2017" / "86.jpg").unlink()
    (root / "val2017" / "72.jpg").unlink()
    with pytest.raises(DataError, match=r"86\.jpg and 1 more: image file missing"):
        dataset.select()


def test_classes_map_by_name(write_coco):
    dataset = CocoDataset.open(write_coco(), "val2017")
    assert dataset.check_classes(["dog", "cat"]) == (7, 3)
    assert dataset.check_classes(["cat", "dog"]) == (3, 7)


@pytest.mark.parametrize("names", [["class0", "class1"], ["cat", "cat"], ["Cat", "hound"]])
def test_other_names_map_by_category_id(write_coco, names):
    assert CocoDataset.open(write_coco(), "val2017").check_classes(names) == (3, 7)


def test_other_number_of_classes(write_coco):
    dataset = CocoDataset.open(write_coco(), "val2017")
    with pytest.raises(DataError, match=r"knows 80 classes .*val2017\.json has 2 categories"):
        dataset.check_classes([f"class{i}" for i in range(80)])


def _set(what, index, key, value):
    return lambda data: data[what][index].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("images"), "'images' is not a list"),
        (lambda d: d.pop("categories"), "'categories' is not a list"),
        (lambda d: d.pop("annotations"), "'annotations' is not a list"),
        (lambda d: d.update(images=[1]), "'images' is not a list of objects"),
        (lambda d: d.update(images=[]), "the file has no images"),
        (lambda d: d.update(categories=[]), "the file has no categories"),
        (lambda d: d["images"][1].pop("width"), "image 93: no 'width'"),
        (lambda d: d["images"][1].pop("id"), "image without id: no 'id'"),
        (lambda d: d["categories"][1].pop("name"), "category 3: no 'name'"),
        (lambda d: d["annotations"][2].pop("bbox"), "annotation 2: no 'bbox'"),
        (_set("images", 1, "width", "40"), "image 93: 'width' is '40', needs int"),
        (_set("images", 1, "id", True), "'id' is True, needs int"),
        (_set("images", 1, "height", 0), "image 93: 40 x 0 pixels"),
        (_set("images", 1, "id", 100), "image id 100 is there twice"),
        (_set("categories", 1, "id", 7), "category id 7 is there twice"),
        (_set("categories", 1, "name", "dog"), "category name 'dog' is there twice"),
        (_set("annotations", 1, "image_id", 5), "names image id 5, which the file does not list"),
        (_set("annotations", 1, "category_id", 5), "names category id 5"),
        (_set("annotations", 1, "bbox", [1, 2, 3]), "annotation 1 of image 93: bbox must be four"),
        (_set("annotations", 1, "bbox", [1, 2, 3, None]), "bbox must be four numbers"),
        (_set("annotations", 1, "bbox", [1, 2, 3, float("nan")]), "bbox must be four numbers"),
        (_set("annotations", 1, "bbox", [1, 2, 10**400, 3]), "<a number of about 401 digits>"),
        (_set("annotations", 1, "bbox", [1, 2, "3", 4]), "bbox must be four numbers"),
        (_set("annotations", 1, "bbox", [1, 2, 3, -4]), "a box of 3 x -4 pixels"),
        (_set("annotations", 1, "area", 10**400), "area one"),
        (_set("annotations", 1, "area", float("inf")), "area one"),
        (_set("annotations", 1, "iscrowd", [1]), "iscrowd"),
        (_set("annotations", 1, "image_id", 10**400), "about 401 digits"),
        (_set("images", 1, "width", 10**9), "pixels"),
        (_set("images", 1, "file_name", "/etc/hostname"), "leads out of the folder"),
        (_set("images", 1, "file_name", "../../x.jpg"), "leads out of the folder"),
        (_set("images", 1, "file_name", "x" * 10_000), "1000 characters"),
        (_set("images", 1, "file_name", "x" * 300), "too long"),
        (_set("images", 1, "file_name", "a\0b"), "must be a text"),
        (_set("images", 1, "file_name", "a\ud800"), "must be a text"),
        (_set("categories", 1, "name", "x" * 10_000), "200 characters"),
        (_set("categories", 1, "name", "x\n\x1b[31m"), "must be a text"),
        (_set("categories", 1, "name", {"a": {}}), "needs str"),
        (_set("annotations", 1, "area", "big"), "area one, not .* 'big'"),
    ],
)
def test_bad_annotation_file(write_coco, change, message):
    root = write_coco(change=change)
    with pytest.raises(DataError, match=message) as caught:
        CocoDataset.open(root, "val2017")
    assert "instances_val2017.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not JSON"), ("{", "not JSON"), ("[]", "top level"), ("[" * 200_000, "not JSON")],
)
def test_not_an_annotation_file(write_coco, content, message):
    root = write_coco()
    (root / "annotations" / "instances_val2017.json").write_text(content)
    with pytest.raises(DataError, match=message):
        CocoDataset.open(root, "val2017")


def test_not_text(write_coco):
    root = write_coco()
    (root / "annotations" / "instances_val2017.json").write_bytes(b"\xff\xfe\x80\x00\xd8")
    with pytest.raises(DataError, match="not JSON"):
        CocoDataset.open(root, "val2017")


def test_missing_places(write_coco, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such data set folder; .*ROOT/train2017"):
        CocoDataset.open(tmp_path / "nowhere", "train2017")
    root = write_coco()
    with pytest.raises(DataError, match="train2017: no such image folder"):
        CocoDataset.open(root, "train2017")
    (root / "train2017").mkdir()
    with pytest.raises(DataError, match=r"instances_train2017\.json: no such annotation file"):
        CocoDataset.open(root, "train2017")
    (root / "annotations" / "instances_train2017.json").mkdir()
    with pytest.raises(DataError, match="is a directory"):
        CocoDataset.open(root, "train2017")


def test_outlines_are_not_kept(write_coco):
    root = write_coco()
    source = root / "annotations" / "instances_val2017.json"
    assert "segmentation" in json.loads(source.read_text())["annotations"][0]
    assert not hasattr(CocoDataset.open(root, "val2017").annotations[0], "segmentation")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[]",
        "{",
        '{"images": [], "images": []}',
        "[" + "[]," * 1_200_000 + "1]",
        "9" * 5000,
    ],
)
def test_annotation_files_that_are_none(tmp_path, text):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(text)
    with pytest.raises(DataError) as caught:
        CocoDataset.open(tmp_path, "val2017")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


def test_more_images_than_there_are_is_told(write_coco):
    with pytest.warns(Note, match="8 images were asked for, instances_val2017.json lists 5"):
        assert len(CocoDataset.open(write_coco(), "val2017").select(8)) == 5


def test_names_that_differ_are_told(write_coco, recwarn):
    dataset = CocoDataset.open(write_coco(), "val2017")  # 3: cat, 7: dog
    assert dataset.check_classes(["Dog ", "CAT"]) == (7, 3)
    assert dataset.check_classes(["class0", "class1"]) == (3, 7)
    assert not recwarn
    with pytest.warns(Note, match="1 of .* 2 class names .*'hound' where that has 'dog'"):
        assert dataset.check_classes(["cat", "hound"]) == (3, 7)
    with pytest.warns(Note, match="'dog'. are none of the model's classes, .*'hound'. are none of"):
        assert dataset.check_classes(["hound", "cat"]) == (8, 3)
    with pytest.warns(Note, match="2 of the model's 3 classes .* do not count"):
        assert dataset.check_classes(["hare", "dog", "bee"])[1] == 7
