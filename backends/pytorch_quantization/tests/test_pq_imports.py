"""A session starts without scipy.stats, and leaves it as it is."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.registry import load_backend
from quantcore.testing.models import small_detector
with load_backend("pytorch-quantization").open(small_detector(), SessionOptions(device="cpu")):
    assert "scipy.stats" not in sys.modules
    from pytorch_quantization.calib import histogram
    found = histogram.entropy([0.5, 0.5], [0.25, 0.75])
    from scipy import stats
    assert found == stats.entropy([0.5, 0.5], [0.25, 0.75])
    assert stats.norm.cdf(0.0) == 0.5
"""


def test_scipy_stats_is_imported_when_an_entropy_is_computed() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
