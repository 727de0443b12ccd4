"""The engine against the type stubs of the full TensorRT, which cannot be installed everywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stubs(tmp_path) -> Path:
    """The stubs in a folder of their own: where they lie, mypy leaves them out (no py.typed)."""
    pytest.importorskip("mypy")
    try:
        files = metadata.distribution("tensorrt-stubs").locate_file("")
    except metadata.PackageNotFoundError:
        pytest.skip("tensorrt-stubs is not installed")
    for name in ("tensorrt", "tensorrt_bindings"):
        shutil.copytree(Path(str(files)) / name, tmp_path / name)
    # As released they do not parse: parameters called `in`, one without default behind others.
    path = tmp_path / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"([(,] ?)in: ", r"\1in_: ", path.read_text())
    text = text.replace("channel_axis: int)", "channel_axis: int = ...)")
    path.write_text(text)
    return tmp_path


#: Mistakes that only the stubs can tell.
MISTAKES = """
from quantcore.engines.tensorrt.library import Logger, trt

builder = trt.Builder("no logger")
trt.Runtime(Logger()).deserialize_cuda_engine(b"").create_execution_contex()
"""


def test_the_engine_fits_the_stubs(stubs, tmp_path) -> None:
    probe = tmp_path / "mistakes.py"
    probe.write_text(MISTAKES)
    found = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary"),
            *("--cache-dir", str(tmp_path / "cache"), "quantcore/engines/tensorrt", str(probe)),
        ],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
    )
    lines = found.stdout.splitlines()
    assert [line for line in lines if line.startswith("quantcore/")] == []
    told = [line for line in lines if Path(line.partition(":")[0]).name == probe.name]
    assert len(told) == 2, "the stubs were not read"
    assert '"Builder" has incompatible type "str"' in told[0]
    assert 'has no attribute "create_execution_contex"' in told[1]
