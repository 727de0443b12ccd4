"""A session starts without what takes long, and leaves the toolkit as it is."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

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


def test_layers_still_know_who_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("quantcore_pytorch_quantization.network")
    from pytorch_quantization.nn import QuantConv2d

    def slow() -> None:
        raise AssertionError("reads the sources of all callers")

    monkeypatch.setattr(inspect, "stack", slow)
    layer = QuantConv2d(3, 4, 3)
    with pytest.raises(TypeError, match="only called by __init__"):
        layer.init_quantizer(layer.default_quant_desc_input, layer.default_quant_desc_weight)
