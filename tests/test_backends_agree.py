"""Two frameworks, one network, the same images: the same definition gives the same table."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from quantcore import pipeline
from quantcore.policy import CalibrationPolicy
from quantcore.progress import Silent
from quantcore.table import CalibrationTable
from quantcore.worker import run_apart

BACKENDS = ("pytorch-quantization", "paddle")


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("quantcore_yolo", reason="needs models/yolo")
    weights = Path(str(resources.files("quantcore"))) / "demo_data/yolov7-tiny-digits.safetensors"
    return pipeline.load_model("yolov7-tiny", weights)


def table(model, backend: str, policy: CalibrationPolicy) -> CalibrationTable:
    """A calibration in a process of its own, as `compare` does it."""
    data = pipeline.Data(Path(str(resources.files("quantcore"))) / "demo_data")
    job = (model, policy, backend, data, "cpu")
    found = run_apart(pipeline.calibrate, *job, progress=Silent(), what=backend).result
    assert found.audit is not None
    assert found.audit.worst_db >= 50
    return found.table


@pytest.mark.parametrize(
    ("implementation", "observer", "tolerance"),
    [
        ("native", "max", 1e-4),
        ("portable", "max", 1e-5),
        ("portable", "percentile", 1e-5),
        ("portable", "entropy", 1e-5),
        ("portable", "mse", 1e-5),
    ],
)
def test_the_tables_agree(model, implementation: str, observer: str, tolerance: float) -> None:
    for name in ("pytorch_quantization", "paddle"):
        pytest.importorskip(name)
    policy = CalibrationPolicy.from_dict(
        {
            "implementation": implementation,
            "activations": {"observer": observer},
            "images": 16 if observer == "percentile" else 8,
        }
    )
    first, second = (table(model, backend, policy) for backend in BACKENDS)
    assert first.tensors.keys() == second.tensors.keys()
    apart = {
        name: (found.amax_array, second.tensors[name].amax_array)
        for name, found in first.tensors.items()
        if not np.allclose(found.amax_array, second.tensors[name].amax_array, tolerance, 0)
    }
    # Where two candidates of a search are equally good to within the frameworks' rounding, either
    # may win: they then lie close by each other, and there are few such tensors.
    searched = observer in ("mse", "entropy")
    assert len(apart) <= (len(first.tensors) // 50 if searched else 0), apart
    for name, (one, other) in apart.items():
        assert abs(one - other) <= max(one, other) / 512, name
