"""A file of finished work that survives a kill: what is in it is never computed again."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from quantcore.errors import OutputError
from quantcore.files import ensure_folder
from quantcore.ir import Array

Unit = tuple[str, int]


@dataclass(frozen=True)
class Finding:
    """What one graph made of one image.

    Attributes:
        boxes: Detections, n x 6 as `quantcore.evaluation.nms` gives them, in original pixels.
        powers: Sums of squares in pairs, signal and noise: of the heads, of the layer's own
            output; NaN where not measured.
    """

    boxes: Array
    powers: tuple[float, float, float, float]


class Journal:
    """Findings by graph and image, one line of JSON each, appended as they are made.

    A unit's key is a hash of everything that the finding depends on, so a journal can be shared by
    studies and nothing in it can be mistaken for something else. A line that was cut off by a kill
    is dropped when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; raises OutputError."""
        ensure_folder(path.parent)
        self._lock = threading.Lock()
        self._places: dict[Unit, tuple[int, int]] = {}
        try:
            self._file: IO[bytes] = path.open("a+b")
            self._index()
        except OSError as error:
            raise OutputError(f"{path}: cannot use the journal: {error.strerror}") from None
        self.restored = len(self._places)

    def _index(self) -> None:
        self._file.seek(0)
        good = 0
        for line in self._file:
            try:
                data = json.loads(line) if line.endswith(b"\n") else None
                unit = (str(data["key"]), int(data["image"])) if data else None
            except (ValueError, KeyError, TypeError):
                unit = None
            if unit is None:
                break
            self._places[unit] = (good, len(line))
            good += len(line)
        self._file.truncate(good)

    def __contains__(self, unit: object) -> bool:
        return unit in self._places

    def put(self, unit: Unit, finding: Finding) -> None:
        """Writes a finding through to the operating system."""
        boxes = np.ascontiguousarray(finding.boxes, "<f4")
        data = {
            "key": unit[0],
            "image": unit[1],
            "powers": finding.powers,
            "boxes": base64.b64encode(boxes.tobytes()).decode(),
        }
        line = json.dumps(data).encode() + b"\n"
        with self._lock:
            start = self._file.seek(0, 2)
            self._file.write(line)
            self._file.flush()
            self._places[unit] = (start, len(line))

    def get(self, unit: Unit) -> Finding:
        """The finding of a unit that is in the journal."""
        with self._lock:
            start, length = self._places[unit]
            self._file.seek(start)
            data = json.loads(self._file.read(length))
        boxes = np.frombuffer(base64.b64decode(data["boxes"]), "<f4").reshape(-1, 6)
        signal, noise, own_signal, own_noise = data["powers"]
        return Finding(boxes.astype(np.float32), (signal, noise, own_signal, own_noise))

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
