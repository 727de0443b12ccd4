"""What keeping a finished piece costs, against appending it to a plain file as a line of JSON.

python benchmarks/store.py
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantcore.ir.model import Array
from quantcore.runtime.store import Store

PIECES, ROUNDS = 2000, 5


@dataclass(frozen=True)
class Piece:
    """What a study finds on an image."""

    boxes: Array
    powers: tuple[float, ...]


def kept(folder: Path, piece: Piece) -> tuple[float, float]:
    """Seconds to put, and to get, every piece."""
    with Store(folder) as store:
        began = time.perf_counter()
        for number in range(PIECES):
            store.put(f"{number:064}", piece)
        put = time.perf_counter()
        for number in range(PIECES):
            store.get(f"{number:064}", Piece)
        return put - began, time.perf_counter() - put


def appended(folder: Path, piece: Piece) -> tuple[float, float]:
    """The floor: flushed lines without a checksum, a lock or an index."""
    path = folder / "lines.jsonl"
    began = time.perf_counter()
    with path.open("w") as file:
        for number in range(PIECES):
            boxes = base64.b64encode(piece.boxes.tobytes()).decode()
            line = {"key": f"{number:064}", "boxes": boxes, "powers": piece.powers}
            file.write(json.dumps(line) + "\n")
            file.flush()
    put = time.perf_counter()
    for line in path.read_text().splitlines():
        found = json.loads(line)
        np.frombuffer(base64.b64decode(found["boxes"]), np.float32)
    return put - began, time.perf_counter() - put


def main() -> None:
    piece = Piece(np.random.default_rng(0).random((300, 6), np.float32), (1.0, 2.0, 3.0, 4.0))
    times: dict[str, list[tuple[float, float]]] = {"store": [], "lines": []}
    for _ in range(ROUNDS):
        for name, run in (("store", kept), ("lines", appended)):
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(run(Path(folder), piece))
    best = {name: np.min(found, axis=0) / PIECES * 1e6 for name, found in times.items()}
    for column, what in enumerate(("put", "get")):
        store, lines = best["store"][column], best["lines"][column]
        print(f"{what}: {store:.0f} us, lines of JSON {lines:.0f} us: {store / lines:.2f} x")


if __name__ == "__main__":
    main()
