"""What the evaluation's tests share: the real data beside the repository, and where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantcore.data.coco import CocoDataset


@pytest.fixture
def coco_mini(shared: Path) -> CocoDataset:
    """79 real COCO images."""
    return CocoDataset.open(shared / "data" / "coco-mini", "val2017")
