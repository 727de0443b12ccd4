"""read_image: whole images pass, everything else names the file."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from quantcore.data.coco import CocoImage
from quantcore.data.headers import header_size
from quantcore.data.images import decode_image, read_image
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
    with pytest.raises(DataError, match=r"a\.jpg: no such file"):
        read_image(CocoImage(1, tmp_path / "a.jpg", 40, 30))


def test_other_size(tmp_path):
    image = _write(tmp_path / "a.jpg", width=30, height=40)
    with pytest.raises(DataError, match=r"a\.jpg: the image has 30 x 40 pixels, .* 40 x 30"):
        read_image(image)


def _png_header(width, height):
    head = b"IHDR" + struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + head + struct.pack(">L", zlib.crc32(head))


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_the_header_is_held_against_the_annotation_before_anything_is_decoded(
    tmp_path, monkeypatch, width, height
):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    (tmp_path / "a.png").write_bytes(_png_header(width, height) + bytes(100))
    with pytest.raises(DataError, match=rf"{width} x {height} pixels, the annotation file says 40"):
        read_image(CocoImage(1, tmp_path / "a.png", 40, 30))
    with pytest.raises(DataError, match="more than the"):
        decode_image(tmp_path / "a.png")


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp"])
def test_sizes_in_headers(tmp_path, extension):
    image = _write(tmp_path / "a", width=50, height=20, extension=extension)
    content = image.path.read_bytes()
    assert header_size(content) == (50, 20)
    for length in range(len(content[:60])):
        header_size(content[:length])  # what breaks off may be anything but an exception


def test_an_image_turned_by_its_own_orientation_is_decoded(tmp_path):
    image = _write(tmp_path / "a.jpg", width=30, height=40)
    whole = image.path.read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    image.path.write_bytes(whole[:2] + segment + whole[2:])
    assert read_image(image).shape == (30, 40, 3)


def test_a_jpeg_with_a_hole_of_zeros(tmp_path):
    image = _write(tmp_path / "a.jpg", width=200, height=200)
    whole = bytearray(image.path.read_bytes())
    assert len(whole) > 8000
    whole[3000:5000] = bytes(2000)
    image.path.write_bytes(whole)
    with pytest.raises(DataError, match=r"a\.jpg: corrupt.*zeroed"):
        decode_image(image.path)
    blank = np.full((4000, 4000, 3), 255, np.uint8)
    encoded = cv2.imencode(".jpg", blank, [cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1].tobytes()
    image.path.write_bytes(encoded)
    assert (decode_image(image.path) == 255).all()


def test_a_jpeg_of_far_too_many_scans(tmp_path):
    image = _write(tmp_path / "a.jpg")
    whole = image.path.read_bytes()
    scan = whole[whole.rfind(b"\xff\xda") : -2]
    image.path.write_bytes(whole[:-2] + scan * 200 + whole[-2:])
    with pytest.raises(DataError, match="scans"):
        read_image(image)


def test_devices_pipes_and_folders(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="give a"):
            decode_image(path)
