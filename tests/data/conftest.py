"""A small data set in COCO's layout, written as a test wants it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

Write = Callable[..., Path]


@pytest.fixture
def write_coco(tmp_path: Path) -> Write:
    """Writes `count` images of 40 x 30 pixels, one box in each; `change` edits the JSON first."""

    def write(count: int = 5, change: Callable[[dict[str, Any]], Any] = lambda data: None) -> Path:
        rng = np.random.default_rng(0)
        folder = tmp_path / "val2017"
        folder.mkdir()
        ids = [100 - 7 * i for i in range(count)]
        for identity in ids:
            pixels = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / f"{identity}.jpg"), pixels)
        data = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in ids],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
            "annotations": [
                {
                    "id": n,
                    "image_id": i,
                    "category_id": 3,
                    "bbox": [1, 2, 10.5, 8],
                    "area": 50.25,
                    "iscrowd": 0,
                    "segmentation": [[1, 2, 3, 4, 5, 6]],
                }
                for n, i in enumerate(ids)
            ],
        }
        change(data)
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
        return tmp_path

    return write
