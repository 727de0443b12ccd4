"""Times decoding, NMS and the COCO metric against plain references in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from quantcore.data.coco import Annotation, Category, CocoDataset, CocoImage
from quantcore.errors import DataError
from quantcore.evaluation.coco import score
from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.evaluation.detections import Detections
from quantcore.evaluation.nms import nms
from quantcore.ir.decoding import LIMITS
from quantcore.ir.model import Array

T = TypeVar("T")

SIZE = (640, 640)
ANCHORS = (
    ((12.0, 16.0), (19.0, 36.0), (40.0, 28.0)),
    ((36.0, 75.0), (76.0, 55.0), (72.0, 146.0)),
    ((142.0, 110.0), (192.0, 243.0), (459.0, 401.0)),
)
DECODING = AnchorDecoding((8, 16, 32), ANCHORS)


def timed(work: Callable[[], T], repeats: int = 5) -> tuple[T, float]:
    """The result and the best milliseconds of some repeats."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return result, best * 1e3


def heads(batch: int) -> list[Array]:
    """Logits like a trained network's: crowds of like boxes on 20 objects, background elsewhere."""
    rng = np.random.default_rng(0)
    made = []
    for stride in DECODING.strides:
        side = SIZE[0] // stride
        raw = rng.normal(0, 0.3, (batch, 3, 85, side, side)).astype(np.float32)
        y, x = np.mgrid[:side, :side] * stride
        middles = rng.uniform(0, SIZE[0], (batch, 20, 1, 1, 2))
        away = np.hypot(y - middles[..., 0], x - middles[..., 1]).min(1)
        raw[:, :, 4] += (1 - np.minimum(away / 4, 11))[:, None]
        raw[:, :, 5:] -= 9
        raw[:, :, 5:8] += 7
        made.append(raw.reshape(batch, 255, side, side))
    return made


def plain_nms(rows: Array) -> Array:
    """Greedy suppression, one kept box against all the rest, as a textbook writes it."""
    scores = rows[:, 5:] * rows[:, 4:5]
    box, label = np.nonzero(scores > LIMITS.conf)
    score_of = scores[box, label]
    half = rows[box, 2:4] / 2
    corners = np.concatenate([rows[box, :2] - half, rows[box, :2] + half], axis=1)
    left = np.argsort(-score_of, kind="stable")
    kept = []
    while len(left) and len(kept) < LIMITS.detections:
        best, left = left[0], left[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[left, :2])
        high = np.minimum(corners[best, 2:], corners[left, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        areas = (corners[:, 2:] - corners[:, :2]).prod(1)
        overlap = shared / (areas[best] + areas[left] - shared)
        left = left[(overlap <= LIMITS.iou) | (label[left] != label[best])]
    return np.column_stack([corners[kept], score_of[kept], label[kept]]).astype(np.float32)


def bench_decode(batch: int) -> list[Array]:
    raw = heads(batch)
    whole, full_ms = timed(lambda: DECODING.decode(raw, SIZE))
    rows, ms = timed(lambda: list(DECODING.candidates(raw, SIZE, LIMITS.conf)))
    for few, everything in zip(rows, whole, strict=True):
        np.testing.assert_array_equal(few, everything[everything[:, 4] >= LIMITS.conf])
    print(
        f"decode     {ms / batch:8.2f} ms/image   all 25200 rows {full_ms / batch:8.2f} ms/image   "
        f"{full_ms / ms:5.1f} x"
    )
    return rows


def bench_nms(rows: list[Array]) -> None:
    kept, ms = timed(lambda: nms(rows))
    wanted, plain_ms = timed(lambda: [plain_nms(r) for r in rows], repeats=1)
    for a, b in zip(kept, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-4)
    pairs = np.mean([np.count_nonzero(r[:, 5:] * r[:, 4:5] > LIMITS.conf) for r in rows])
    print(
        f"nms        {ms / len(rows):8.2f} ms/image   plain numpy    "
        f"{plain_ms / len(rows):8.2f} ms/image   {plain_ms / ms:5.1f} x   "
        f"({pairs:.0f} candidates)"
    )


def scene(images: int) -> tuple[CocoDataset, Detections]:
    """A data set of random boxes, and a hundred detections an image."""
    rng = np.random.default_rng(0)
    annotations, found = [], {}
    for n in range(images):
        box = np.concatenate([rng.uniform(0, 400, (7, 2)), rng.uniform(8, 200, (7, 2))], axis=1)
        label = rng.integers(0, 80, 7)
        for (x, y, w, h), c in zip(box.tolist(), label.tolist(), strict=True):
            annotations.append(Annotation(n, c, (x, y, w, h), w * h, False))
        pick = rng.integers(0, 7, 100)
        corners = np.concatenate([box[pick, :2], box[pick, :2] + box[pick, 2:]], axis=1)
        corners += rng.normal(0, 8, corners.shape)
        extra = np.column_stack([corners, rng.random(100), label[pick]])
        found[n] = extra.astype(np.float32)
    dataset = CocoDataset(
        Path("random.json"),
        tuple(CocoImage(n, Path(f"{n}.jpg"), 640, 640) for n in range(images)),
        tuple(Category(c, f"class{c}") for c in range(80)),
        tuple(annotations),
    )
    return dataset, Detections(found, tuple(range(80)))


def bench_metric(images: int) -> None:
    dataset, detections = scene(images)
    ours, ms = timed(lambda: score(dataset, detections), repeats=3)
    try:
        reference, plain_ms = timed(lambda: score(dataset, detections, "pycocotools"), repeats=1)
    except DataError as error:
        print(f"metric     {ms / images:8.2f} ms/image   ({error})")
        return
    names = ours.figures.keys()
    worst = max(abs((ours.figures[n] or 0) - (reference.figures[n] or 0)) for n in names)
    print(
        f"metric     {ms / images:8.2f} ms/image   pycocotools    {plain_ms / images:8.2f} ms/image"
        f"   {plain_ms / ms:5.1f} x   (largest difference {worst:.1e})"
    )


def main() -> None:
    bench_nms(bench_decode(batch=4))
    bench_metric(images=500)


if __name__ == "__main__":
    main()
