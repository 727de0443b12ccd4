"""What the evaluation's tests share: the real data beside the repository, and where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantcore.data.coco import CocoDataset

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder of real checkpoints and images; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real checkpoints and images)")
    return SHARED


@pytest.fixture
def coco_mini(shared: Path) -> CocoDataset:
    """79 real COCO images."""
    return CocoDataset.open(shared / "data" / "coco-mini", "val2017")
