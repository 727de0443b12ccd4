"""Generate a small digit detection set in COCO layout.

Handwritten 8x8 digits that ship with scikit-learn are upscaled smoothly, distorted, coloured and
placed on procedural backgrounds. Every scene is a pure function of ``(seed, stream, index)``, so a
set can be rebuilt at any time, and a training run can draw endless scenes that never repeat a
packaged one.

Usage:
    python tools/demo/make_scenes.py --out DIR --train 64 --val 128 --seed 0
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SIZE = 320
JPEG_QUALITY = 80

# Streams keep the random sequences of the different uses apart from one another.
STREAM_CALIBRATION = 0
STREAM_VALIDATION = 1
STREAM_TRAINING = 2

# The first digits train, the remaining ones only ever appear in validation scenes.
TRAINING_DIGITS = 1300

# Most scenes are square; the others make sure that letterboxing is exercised.
_SHAPES = ((320, 320), (240, 320), (320, 240))
_SHAPE_ODDS = (0.76, 0.12, 0.12)
_DIGIT_SIZE = (24.0, 120.0)
_INK_THRESHOLD = 0.4

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """One rendered scene.

    Attributes:
        image: BGR image, ``(height, width, 3)``.
        boxes: Tight ink boxes as ``x, y, width, height`` in pixels, ``(n, 4)``.
        labels: Digit values 0 to 9, ``(n,)``.
    """

    image: ByteArray
    boxes: FloatArray
    labels: NDArray[np.int64]


@lru_cache(maxsize=1)
def _digit_fields() -> tuple[FloatArray, NDArray[np.int64]]:
    """Load the digits as smooth intensity fields.

    Returns:
        Fields of shape ``(n, 96, 96)`` in 0 to 1 with a margin on each side, and the digit values.
    """
    bundle = load_digits()
    padded = np.pad(bundle.images.astype(np.float32) / 16.0, ((0, 0), (2, 2), (2, 2)))
    # Interpolating the intensities before thresholding them gives round strokes, not squares.
    fields = [cv2.resize(digit, (96, 96), interpolation=cv2.INTER_CUBIC) for digit in padded]
    return np.stack(fields).astype(np.float32), bundle.target.astype(np.int64)


def _colour(rng: np.random.Generator) -> FloatArray:
    """Draw a random BGR colour in 0 to 255."""
    return rng.uniform(10, 245, size=3).astype(np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Render a linear gradient between two colours in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = np.cos(angle) * xs / width + np.sin(angle) * ys / height
    ramp = (ramp - ramp.min()) / max(float(np.ptp(ramp)), 1e-6)
    first = _colour(rng)
    second = np.clip(first + rng.normal(0, 60, size=3), 0, 255).astype(np.float32)
    return first + ramp[..., None] * (second - first)


def _cloud(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Render coloured low-frequency noise with zero mean."""
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12, 24):
        grid = rng.normal(0, 1, size=(cells, cells, 3)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 3.0 / cells
    return total * np.float32(rng.uniform(5, 32))


def _stripes(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Render a sinusoidal texture of a random period and direction with zero mean."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(9, 70)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = np.sin((np.cos(angle) * xs + np.sin(angle) * ys) * (2 * np.pi / period))
    return wave[..., None] * rng.normal(0, 15, size=3).astype(np.float32)


def _clutter(rng: np.random.Generator, image: FloatArray) -> None:
    """Draw strokes and shapes that are no digits, so that ink alone does not mean an object."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, 9))):
        layer = np.zeros((height, width), np.float32)
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        reach = int(rng.integers(8, 60))
        thick = int(rng.integers(2, 9))
        angle = float(rng.uniform(0, 360))
        kind = int(rng.integers(0, 3))
        if kind == 0:
            axes = (reach, max(4, reach // 3))
            cv2.ellipse(layer, (x0, y0), axes, angle, 0, 360, 1.0, -1, cv2.LINE_AA)
        elif kind == 1:
            sweep = float(rng.uniform(60, 150))
            cv2.ellipse(layer, (x0, y0), (reach, reach), angle, 0, sweep, 1.0, thick, cv2.LINE_AA)
        else:
            end = (x0 + int(rng.integers(-80, 81)), y0 + int(rng.integers(-80, 81)))
            cv2.line(layer, (x0, y0), end, 1.0, thick, cv2.LINE_AA)
        opacity = np.float32(rng.uniform(0.2, 0.7))
        image += (layer * opacity)[..., None] * (_colour(rng) - image)


def _background(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Compose a random background in 0 to 255."""
    image = _gradient(rng, height, width)
    if rng.random() < 0.8:
        image += _cloud(rng, height, width)
    if rng.random() < 0.4:
        image += _stripes(rng, height, width)
    np.clip(image, 0, 255, out=image)
    _clutter(rng, image)
    return image


def _digit_alpha(rng: np.random.Generator, field: FloatArray, size: float) -> FloatArray:
    """Turn an intensity field into an anti-aliased ink mask.

    Args:
        rng: Source of the distortion.
        field: Smooth intensities of one digit, ``(96, 96)``.
        size: Wanted height of the digit in pixels, before the rotation.

    Returns:
        Opacity in 0 to 1, cropped to the visible ink with a margin of two pixels.
    """
    scale = size / 64.0
    angle, shear = np.deg2rad(rng.uniform(-16, 16)), rng.uniform(-0.15, 0.15)
    aspect = rng.uniform(0.85, 1.2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.array([[aspect, shear], [0.0, 1.0]]) * scale
    side = int(np.ceil(size * 2.0)) + 4
    shift = np.array([side / 2, side / 2]) - linear @ np.array([47.5, 47.5])
    matrix = np.hstack([linear, shift[:, None]]).astype(np.float32)
    warped = cv2.warpAffine(field, matrix, (side, side), flags=cv2.INTER_LINEAR)
    # The strokes of a small digit span few pixels, so their edge covers a wider intensity range.
    middle, half = rng.uniform(0.3, 0.5), min(0.22, 3.5 / size)
    alpha = np.clip((warped - middle) / (2 * half) + 0.5, 0, 1).astype(np.float32)
    box = _tight_box(alpha > _INK_THRESHOLD)
    if box is None:
        return alpha[:0, :0]
    x0, y0, x1, y1 = box
    return np.pad(alpha, 2)[y0 : y1 + 4, x0 : x1 + 4]


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Find the half-open bounds ``x0, y0, x1, y1`` of the set pixels, or None without any."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _find_place(
    rng: np.random.Generator, taken: FloatArray, shape: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int] | None:
    """Find a corner where a digit overlaps the earlier ones little.

    Args:
        rng: Source of the trial positions.
        taken: Summed ink of the digits placed so far.
        shape: Height and width of the scene.
        size: Height and width of the digit.

    Returns:
        Top and left of the digit, or None when no trial fits.
    """
    if size[0] >= shape[0] or size[1] >= shape[1]:
        return None
    for _ in range(30):
        top = int(rng.integers(0, shape[0] - size[0] + 1))
        left = int(rng.integers(0, shape[1] - size[1] + 1))
        if taken[top : top + size[0], left : left + size[1]].mean() < 0.02:
            return top, left
    return None


def _ink_colour(rng: np.random.Generator, patch: FloatArray) -> FloatArray:
    """Draw a colour that stands out, at times only slightly, from the pixels around."""
    around = patch.reshape(-1, 3).mean(axis=0)
    wanted = rng.uniform(38, 110)
    colour = _colour(rng)
    for _ in range(20):
        if abs(float((colour - around) @ (0.114, 0.587, 0.299))) >= wanted:
            break
        colour = _colour(rng)
    return colour


def _place_digits(
    rng: np.random.Generator, image: FloatArray, pool: NDArray[np.int64]
) -> tuple[list[FloatArray], list[int]]:
    """Paint two to eight digits into the image.

    Args:
        rng: Source of digits, sizes, places and colours.
        image: Scene in 0 to 255, changed in place.
        pool: Indices of the digits that may be used.

    Returns:
        Full-size ink masks in painting order, and the digit values.
    """
    fields, values = _digit_fields()
    shape = (image.shape[0], image.shape[1])
    taken = np.zeros(shape, np.float32)
    masks: list[FloatArray] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(2, 9))):
        pick = int(rng.choice(pool))
        size = float(np.exp(rng.uniform(*np.log(_DIGIT_SIZE))))
        alpha = _digit_alpha(rng, fields[pick], size)
        place = _find_place(rng, taken, shape, alpha.shape) if alpha.size else None
        if place is None:
            continue
        region = np.s_[place[0] : place[0] + alpha.shape[0], place[1] : place[1] + alpha.shape[1]]
        mask = np.zeros(shape, np.float32)
        mask[region] = alpha
        taken[region] = np.maximum(taken[region], alpha)
        opacity = np.float32(rng.uniform(0.75, 1.0))
        colour = _ink_colour(rng, image[region])
        image[region] += (alpha * opacity)[..., None] * (colour - image[region])
        masks.append(mask)
        labels.append(int(values[pick]))
    return masks, labels


def _visible_boxes(masks: list[FloatArray]) -> list[tuple[float, float, float, float] | None]:
    """Box the ink of each digit that later digits do not cover."""
    boxes: list[tuple[float, float, float, float] | None] = []
    cover: FloatArray | np.float32 = np.float32(1)
    for mask in reversed(masks):
        bounds = _tight_box(mask * cover > _INK_THRESHOLD)
        cover = cover * (1 - mask)
        if bounds is None:
            boxes.append(None)
            continue
        x0, y0, x1, y1 = bounds
        boxes.append((float(x0), float(y0), float(x1 - x0), float(y1 - y0)))
    return boxes[::-1]


def _camera(rng: np.random.Generator, image: FloatArray) -> ByteArray:
    """Add the slight blur and noise of a camera."""
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.1)))
    noise = rng.normal(0, rng.uniform(0.5, 5), size=image.shape[:2]).astype(np.float32)
    return np.clip(image + noise[..., None], 0, 255).round().astype(np.uint8)


def make_scene(seed: int, stream: int, index: int) -> Scene:
    """Render one scene.

    Args:
        seed: Seed of the whole set.
        stream: One of the ``STREAM_`` constants; it also decides which digits may appear.
        index: Number of the scene in its stream.

    Returns:
        The scene; the same arguments always give the same one.
    """
    rng = np.random.default_rng([seed, stream, index])
    count = len(_digit_fields()[1])
    held_out = stream == STREAM_VALIDATION
    pool = np.arange(TRAINING_DIGITS, count) if held_out else np.arange(TRAINING_DIGITS)
    height, width = _SHAPES[int(rng.choice(len(_SHAPES), p=_SHAPE_ODDS))]
    image = _background(rng, height, width)
    masks, labels = _place_digits(rng, image, pool)
    found = [(box, label) for box, label in zip(_visible_boxes(masks), labels, strict=True) if box]
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    return Scene(_camera(rng, image), boxes, np.array([label for _, label in found], np.int64))


def encode(image: ByteArray) -> bytes:
    """Compress an image the way the packaged set stores it."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG image")
    return data.tobytes()


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, object]]:
    """Describe the digits of a scene in COCO terms."""
    return [
        {
            "id": first_id + offset,
            "image_id": image_id,
            "category_id": int(label) + 1,
            "bbox": [float(value) for value in box],
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
        }
        for offset, (box, label) in enumerate(zip(scene.boxes, scene.labels, strict=True))
    ]


def _write_split(root: Path, name: str, stream: int, seed: int, ids: range) -> None:
    """Write the images and the annotation file of one split."""
    folder = root / name
    folder.mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index, image_id in enumerate(ids):
        scene = make_scene(seed, stream, index)
        file_name = f"{image_id:012d}.jpg"
        (folder / file_name).write_bytes(encode(scene.image))
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        annotations += _annotations(scene, image_id, len(annotations) + 1)
    categories = [
        {"id": number, "name": label, "supercategory": "digit"}
        for number, label in enumerate(CLASS_NAMES, start=1)
    ]
    document = {
        "info": {"description": "quantcore demo digits", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    target = root / "annotations" / f"instances_{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


def write_set(out: Path, train: int, val: int, seed: int) -> None:
    """Write a whole set, replacing an earlier one only once the new one is complete.

    Args:
        out: Folder of the set; other files in it are left alone.
        train: Number of training (calibration) scenes.
        val: Number of validation scenes.
        seed: Seed of the set.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scenes-", dir=out) as scratch:
        fresh = Path(scratch)
        _write_split(fresh, "train2017", STREAM_CALIBRATION, seed, range(1, train + 1))
        _write_split(fresh, "val2017", STREAM_VALIDATION, seed, range(train + 1, train + val + 1))
        for name in ("train2017", "val2017", "annotations"):
            shutil.rmtree(out / name, ignore_errors=True)
            (fresh / name).replace(out / name)


def main() -> None:
    """Parse the command line and write the set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the set")
    parser.add_argument("--train", type=int, default=64, help="number of training scenes")
    parser.add_argument("--val", type=int, default=128, help="number of validation scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the set")
    arguments = parser.parse_args()
    if min(arguments.train, arguments.val, arguments.seed) < 0:
        parser.error("--train, --val and --seed must not be negative")
    write_set(arguments.out, arguments.train, arguments.val, arguments.seed)
    print(f"wrote {arguments.train} training and {arguments.val} validation scenes")


if __name__ == "__main__":
    main()
