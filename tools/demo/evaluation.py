"""Loading, detection and scoring of the packaged digit scenes."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hotcoco import COCO, COCOeval
from make_scenes import IMAGE_SIZE, ByteArray, FloatArray
from network import Yolo, decode
from numpy.typing import NDArray
from torch import Tensor

CONFIDENCE = 0.001
NMS_IOU = 0.65
_MAX_CANDIDATES = 1000
_MAX_DETECTIONS = 100
_PADDING = 114


@dataclass(frozen=True)
class Letterbox:
    """A scene that was padded to the square network input.

    Attributes:
        image: BGR image of the input size.
        left: Pixels added on the left.
        top: Pixels added on top.
    """

    image: ByteArray
    left: int
    top: int


def letterbox(image: ByteArray) -> Letterbox:
    """Centre a scene on the grey square that the network sees.

    Scenes never exceed the input size, so they need no scaling.
    """
    height, width = image.shape[:2]
    top, left = (IMAGE_SIZE - height) // 2, (IMAGE_SIZE - width) // 2
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), _PADDING, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return Letterbox(canvas, left, top)


def to_input(images: list[ByteArray]) -> Tensor:
    """Convert BGR images to a batch of RGB planes in 0 to 1."""
    batch = np.stack(images)[..., ::-1].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(batch)).float() / 255


def _iou_with(boxes: FloatArray, index: int, others: NDArray[np.int64]) -> FloatArray:
    """Compare one corner box with others."""
    one, many = boxes[index], boxes[others]
    low, high = np.maximum(one[:2], many[:, :2]), np.minimum(one[2:], many[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=1)
    areas = (many[:, 2:] - many[:, :2]).prod(axis=1) + (one[2:] - one[:2]).prod()
    return np.asarray(overlap / np.maximum(areas - overlap, 1e-9), np.float32)


def suppress(boxes: FloatArray, order: NDArray[np.int64]) -> list[int]:
    """Drop every box that overlaps a better one too much.

    Args:
        boxes: Corner boxes, ``(n, 4)``.
        order: Indices from the best box to the worst.

    Returns:
        Indices of the boxes that stay, best first.
    """
    kept: list[int] = []
    while len(order) and len(kept) < _MAX_DETECTIONS:
        best = int(order[0])
        kept.append(best)
        rest = order[1:]
        order = rest[_iou_with(boxes, best, rest) <= NMS_IOU]
    return kept


def detect(prediction: FloatArray) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Pick the detections of one image.

    Args:
        prediction: Decoded cells, ``(cells, 5 + classes)``.

    Returns:
        Corner boxes, scores and classes.
    """
    scores = prediction[:, 5:] * prediction[:, 4:5]
    cells, labels = np.nonzero(scores > CONFIDENCE)
    picked = scores[cells, labels]
    best = np.argsort(-picked, kind="stable")[:_MAX_CANDIDATES]
    cells, labels, picked = cells[best], labels[best], picked[best]
    centre, size = prediction[cells, :2], prediction[cells, 2:4]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    # Shifting the classes apart keeps a box from suppressing one of another class.
    apart = boxes + labels[:, None].astype(np.float32) * (4 * IMAGE_SIZE)
    kept = suppress(apart, np.arange(len(boxes)))
    return boxes[kept], picked[kept], labels[kept]


def _results(image: dict[str, Any], placed: Letterbox, prediction: Tensor) -> list[dict[str, Any]]:
    """Describe the detections of one image in COCO terms."""
    boxes, scores, labels = detect(prediction.numpy())
    shift = np.array([placed.left, placed.top] * 2, np.float32)
    limit = np.array([image["width"], image["height"]] * 2, np.float32)
    boxes = np.clip(boxes - shift, 0, limit)
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {
            "image_id": image["id"],
            "category_id": int(label) + 1,
            "bbox": [float(value) for value in box],
            "score": float(score),
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def predict(net: Yolo, root: Path, batch_size: int = 16) -> list[dict[str, Any]]:
    """Detect digits in all validation scenes.

    Args:
        net: The network.
        root: Folder of a set in COCO layout.
        batch_size: Images per forward pass.

    Returns:
        Detections in the COCO result form.
    """
    text = (root / "annotations" / "instances_val2017.json").read_text(encoding="utf-8")
    images = json.loads(text)["images"]
    results: list[dict[str, Any]] = []
    net.eval()
    for start in range(0, len(images), batch_size):
        group = images[start : start + batch_size]
        scenes = [cv2.imread(str(root / "val2017" / image["file_name"])) for image in group]
        placed = [letterbox(np.asarray(scene, np.uint8)) for scene in scenes]
        with torch.no_grad():
            maps = net(to_input([entry.image for entry in placed]))
            cells = decode(maps, net.head.anchors, net.head.classes)
        for image, entry, prediction in zip(group, placed, cells, strict=True):
            results += _results(image, entry, prediction)
    return results


def score(net: Yolo, root: Path) -> tuple[float, float]:
    """Measure a network on the validation scenes.

    Args:
        net: The network.
        root: Folder of a set in COCO layout.

    Returns:
        mAP@0.5:0.95 and mAP@0.5.
    """
    results = predict(net, root)
    if not results:
        return 0.0, 0.0
    # The evaluator prints its own table, which would drown the progress lines.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "annotations" / "instances_val2017.json"))
        run = COCOeval(truth, truth.load_res(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0]), float(run.stats[1])
