"""The small detector and images of handwritten digits that come with quantcore."""

from __future__ import annotations

import atexit
import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

_OPEN = ExitStack()
atexit.register(_OPEN.close)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo runs on.

    Attributes:
        model: Model name.
        weights: Its checkpoint, trained on the data's training split.
        data: COCO-format folder with `train2017` (64 images) and `val2017` (128), 10 classes.
    """

    model: str
    weights: Path
    data: Path


@cache
def demo() -> Demo:
    """The packaged detector and data; nothing is downloaded."""
    root = _OPEN.enter_context(resources.as_file(resources.files("quantcore") / "demo_data"))
    about = json.loads((root / "demo.json").read_text(encoding="utf-8"))
    return Demo(model=about["model"], weights=root / about["weights"], data=root)
