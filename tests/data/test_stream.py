"""Images of one's own: arrays, files and ready batches become the same inputs as a data set's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from quantcore.data.batches import Batches
from quantcore.data.coco import CocoImage
from quantcore.data.stream import ImageStream
from quantcore.errors import DataError, RangeError
from quantcore.ir.model import Preprocessing

LOOKS = Preprocessing((32, 48))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    random, found = np.random.default_rng(0), []
    for number, size in enumerate([(20, 30), (40, 40), (64, 9)]):
        found.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(found[-1]), random.integers(0, 256, (*size, 3), np.uint8))
    return found


def rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_arrays_files_and_a_data_set_are_the_same_inputs(files: list[Path]) -> None:
    sizes = [cv2.imread(str(path)).shape for path in files]
    images = [
        CocoImage(n, path, size[1], size[0])
        for n, (path, size) in enumerate(zip(files, sizes, strict=True))
    ]
    wanted = np.concatenate(list(Batches(images, LOOKS, 2).inputs()))
    arrays = [rgb(path) for path in files]
    for source in (
        files,
        [str(path) for path in files],
        arrays,
        wanted[None],
        (wanted[:2], wanted[2:]),
    ):
        found = list(ImageStream(source, LOOKS, 2))
        np.testing.assert_array_equal(np.concatenate(found), wanted)
    stream = ImageStream(iter(arrays), LOOKS, 2)
    assert [len(batch) for batch in stream] == [2, 1]
    assert stream.seen == 3


def test_no_more_than_asked_for_is_read(files: list[Path]) -> None:
    assert sum(map(len, ImageStream(files * 9, LOOKS, 2, limit=5))) == 5
    batches = [np.zeros((4, 3, 32, 48), np.float64)] * 3
    found = list(ImageStream(batches, LOOKS, limit=6))
    assert [len(batch) for batch in found] == [4, 2]
    assert found[0].dtype == np.float32


def test_a_generator_is_read_once(files: list[Path]) -> None:
    stream = ImageStream((rgb(path) for path in files), LOOKS)
    assert stream.once
    assert len(list(stream)) == 3
    with pytest.raises(DataError, match="can be read once"):
        next(iter(stream))
    again = ImageStream(files, LOOKS)
    assert len(list(again)) == len(list(again)) == 3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([], "the iterable is empty"),
        ([np.zeros((4, 4), np.uint8)], "image 0: needs an array H x W x 3.*got 4 x 4 of uint8"),
        ([np.zeros((4, 4, 3))], "image 0.*4 x 4 x 3 of float64"),
        ([np.zeros((0, 4, 3), np.uint8)], "image 0"),
        ([3], "image 0.*got int"),
        ([None], "image 0.*got NoneType"),
        (["nowhere.png"], "nowhere.png: no such file"),
        ([np.zeros((1, 3, 8, 8), np.float32)], "batch 0: needs B x 3 x 32 x 48 floats, got 1 x 3"),
        ([np.zeros((1, 3, 32, 48), np.uint8)], "batch 0: needs floats, scaled"),
    ],
)
def test_what_is_no_image_is_named(source: list[object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(ImageStream(source, LOOKS))


def test_a_range_error_tells_how_far_it_was(files: list[Path]) -> None:
    stream = ImageStream(files, LOOKS)
    batches = iter(stream)
    next(batches)
    next(batches)
    with pytest.raises(RangeError, match="NaN; 2 images had been read"), stream.naming_images():
        raise RangeError("NaN")
