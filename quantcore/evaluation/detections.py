"""What a model found in images: boxes in their own pixels, or what another task keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.ir.model import Array
from quantcore.runtime.files import write_whole


@dataclass(frozen=True)
class Predictions:
    """What was found in each image.

    Attributes:
        by_image: Image id -> an array. Of a detector n x 6: x1, y1, x2, y2 in original pixels,
            score, class index; of a classifier the probability of each class.
        category_ids: The data set's category id of each class index.
    """

    by_image: Mapping[int, Array]
    category_ids: tuple[int, ...]


class Detections(Predictions):
    """Detections by image; images without any are there too."""

    def __len__(self) -> int:
        return sum(map(len, self.by_image.values()))

    def to_rows(self) -> npt.NDArray[np.float64]:
        """All detections, n x 7: image id, x, y, width, height, score, category id.

        Float64 holds every image id below 2^53 exactly.
        """
        if not len(self):
            return np.empty((0, 7))
        ids = np.repeat(list(self.by_image), [len(found) for found in self.by_image.values()])
        found = np.concatenate(list(self.by_image.values())).astype(np.float64)
        categories = np.asarray(self.category_ids)[found[:, 5].astype(np.intp)]
        extent = found[:, 2:4] - found[:, :2]
        return np.column_stack((ids, found[:, :2], extent, found[:, 4], categories))

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO's result format: one object a detection, bbox as x, y, width, height."""
        return [
            {
                "image_id": int(row[0]),
                "category_id": int(row[6]),
                "bbox": [round(value, 3) for value in row[1:5]],
                "score": round(row[5], 5),
            }
            for row in self.to_rows().tolist()
        ]

    def save(self, path: Path) -> None:
        """Writes COCO's result format whole or not at all; raises OutputError."""
        write_whole(path, json.dumps(self.to_coco(), allow_nan=False) + "\n")
