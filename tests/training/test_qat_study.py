"""`compare --qat`: one more variant of every backend that trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from quantcore import pipeline
from quantcore.table.table import CalibrationTable

pytestmark = pytest.mark.usefixtures("in_process")

Cli = Callable[..., SimpleNamespace]

RECIPE = "{steps: 4, batch: 2, neighbours: 0, held_out: 0.5}\n"

pytest.importorskip("quantcore_onnx")


@pytest.fixture
def given(squares: SimpleNamespace, tmp_path: Path) -> list[object]:
    (tmp_path / "four.yaml").write_text("{placement: minimal, images: 4}\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    where = [*squares.model, "--data", squares.data, "--policy", tmp_path / "four.yaml"]
    return [*where, "--backend", "pytorch-quantization", "--device", "cpu"]


def test_a_comparison_adds_the_trained_variant(cli: Cli, given, tmp_path: Path) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    out = tmp_path / "out"
    words = ["compare", *given, "--out", out, "--qat", "--recipe", tmp_path / "recipe.yaml"]
    done = cli(*words)
    assert done.code == 0, done.err
    plain, trained = json.loads((out / "report.json").read_text())["variants"]
    assert (plain["step"], trained["step"]) == ("", "trained")
    files = trained["artifacts"]
    record = json.loads((out / files["training"]).read_text())
    assert len(record["losses"]["heads"]) == 4
    assert record["verdict"]["images"] == 2
    assert "images that neither calibration nor training saw" in trained["note"]
    assert trained["note"] in done.out
    assert ("training did not help" in trained["note"]) == (record["kept"] != "trained")
    model = pipeline.load_model("onnx", out / files["float"])
    assert model.fingerprint == record["fingerprint"] != record["parent"]
    table = CalibrationTable.load(out / files["table"])
    assert table.provenance.fingerprint == model.fingerprint
    assert not list(out.glob("*.npz"))

    # Once more, and nothing is trained again.
    again = cli(*words)
    assert again.code == 0
    assert "nothing was computed" in again.out


def test_what_cannot_be_trained_is_refused_before_any_work(cli: Cli, given, tmp_path: Path):
    pytest.importorskip("quantcore_pytorch_quantization")
    out = tmp_path / "out"
    done = cli("compare", *given, "--out", out, "--qat", "--images", "1")
    assert done.code == 2
    assert "too few to set" in done.err
    pytest.importorskip("quantcore_backend_onnxruntime")
    other = [word if word != "pytorch-quantization" else "onnxruntime" for word in given]
    done = cli("compare", *other, "--out", out, "--qat")
    assert done.code == 2
    assert "none of the backends trains" in done.err
