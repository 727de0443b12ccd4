"""read_image: whole images pass, everything else names the file."""

import cv2
import numpy as np
import pytest

from quantcore.data.coco import CocoImage
from quantcore.data.images import read_image
from quantcore.errors import DataError


def _write(path, width=40, height=30, extension=".jpg"):
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    path.write_bytes(cv2.imencode(extension, pixels)[1].tobytes())
    return CocoImage(1, path, 40, 30)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_reads(tmp_path, extension):
    assert read_image(_write(tmp_path / "a", extension=extension)).shape == (30, 40, 3)


def test_grey_image_becomes_three_channels(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((30, 40), 9, np.uint8))
    pixels = read_image(CocoImage(1, tmp_path / "a.png", 40, 30))
    assert pixels.shape == (30, 40, 3)
    assert (pixels == 9).all()


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("keep", [0, 1, 10, 100, -400, -2])
def test_truncated(tmp_path, extension, keep):
    image = _write(tmp_path / "a.img", extension=extension)
    image.path.write_bytes(image.path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.img: corrupt or truncated image"):
        read_image(image)


def test_thumbnail_does_not_hide_truncation(tmp_path):
    image = _write(tmp_path / "a.jpg")
    whole = image.path.read_bytes()
    thumbnail = b"Exif\x00\x00" + whole[:200] + b"\xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    image.path.write_bytes(whole[:2] + segment + whole[2:])
    assert read_image(image).shape == (30, 40, 3)
    image.path.write_bytes(whole[:2] + segment + whole[2:-300])
    with pytest.raises(DataError, match="truncated"):
        read_image(image)


def test_not_an_image(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"a\.jpg: corrupt"):
        read_image(CocoImage(1, tmp_path / "a.jpg", 40, 30))


def test_missing(tmp_path):
    with pytest.raises(DataError, match=r"a\.jpg: cannot read: No such file"):
        read_image(CocoImage(1, tmp_path / "a.jpg", 40, 30))


def test_other_size(tmp_path):
    image = _write(tmp_path / "a.jpg", width=30, height=40)
    with pytest.raises(DataError, match=r"a\.jpg: the image has 30 x 40 pixels, .* 40 x 30"):
        read_image(image)
