"""Images as people have them: grey, 16-bit, CMYK, turned by EXIF, with alpha."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from quantcore.data.coco import CocoImage
from quantcore.data.headers import turned
from quantcore.data.images import decode_image, image_size, read_image
from quantcore.errors import DataError

RNG = np.random.default_rng(0)
#: 40 x 30 blocks of 8 pixels, so that JPEG hardly changes them.
PIXELS = np.kron(RNG.integers(0, 255, (30, 40, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def photo(path: Path, orientation: int, order: str = ">") -> Path:
    """A JPEG that says how the camera was held."""
    content = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    entry = struct.pack(f"{order}HHLHH", 274, 3, 1, orientation, 0)
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}LH", 8, 1)
    exif = b"Exif\0\0" + head + entry + bytes(4)
    path.write_bytes(
        content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]
    )
    return path


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_exif_says(tmp_path: Path, orientation: int, order: str) -> None:
    path = photo(tmp_path / "a.jpg", orientation, order)
    pixels = decode_image(path)
    assert image_size(path) == pixels.shape[1::-1]
    assert turned(path.read_bytes()) == (orientation >= 5)
    assert pixels.shape[:2] == ((320, 240) if orientation >= 5 else (240, 320))


def test_what_was_annotated_unturned_is_read_unturned(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", 6)
    straight = cv2.imdecode(cv2.imencode(".jpg", PIXELS)[1], cv2.IMREAD_COLOR)
    assert np.array_equal(read_image(CocoImage(1, path, 320, 240)), straight)
    assert np.array_equal(read_image(CocoImage(1, path, 240, 320)), np.rot90(straight, -1))
    with pytest.raises(DataError, match=r"320 x 240|240 x 320"):
        read_image(CocoImage(1, path, 100, 320))


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_exif_at_the_end_of_a_large_file_is_seen(tmp_path: Path, ending: str) -> None:
    image = pytest.importorskip("PIL.Image")
    noise = RNG.integers(0, 255, (240, 320, 3)).astype(np.uint8)
    exif = image.Exif()
    exif[274] = 6
    path = tmp_path / f"a.{ending}"
    image.fromarray(noise).save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    if ending == "png":  # the chunk behind the pixels, where tools put it, too
        content = path.read_bytes()
        at = content.index(b"eXIf") - 4
        chunk = content[at : at + 12 + int.from_bytes(content[at : at + 4], "big")]
        path.write_bytes(content[:at] + content[at + len(chunk) : -12] + chunk + content[-12:])
    assert path.stat().st_size > 1 << 17
    assert image_size(path) == decode_image(path).shape[1::-1]


def test_broken_exif_turns_nothing(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", 6)
    content = path.read_bytes()
    at = content.index(b"MM\0*")
    path.write_bytes(content[: at + 4] + b"\xff" * 4 + content[at + 8 :])
    assert image_size(path) == (320, 240)


@pytest.mark.parametrize("ending", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_of_16_bits_the_upper_8_are_taken(tmp_path: Path, ending: str, channels: int) -> None:
    wide = RNG.integers(0, 1 << 16, (30, 40, channels)).astype(np.uint16)
    path = tmp_path / f"a{ending}"
    cv2.imwrite(str(path), wide)
    found = decode_image(path).astype(int)
    assert np.abs(found - wide / 257).max() <= 1
    assert image_size(path) == (40, 30)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_colours_are_those_that_pillow_sees(tmp_path: Path, mode: str) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.fromarray(PIXELS[..., ::-1]).convert(mode).save(path)
    found = decode_image(path)[..., ::-1].astype(int)
    assert found.shape == (240, 320, 3)
    expected = np.asarray(image.open(path).convert("RGB")).astype(int)
    assert np.abs(found - expected).max() <= 2
