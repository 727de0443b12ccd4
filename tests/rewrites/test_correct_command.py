"""`quantcore correct`, and `compare --correct`: what comes after a calibration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from quantcore import pipeline
from quantcore.table.table import CalibrationTable

pytestmark = pytest.mark.usefixtures("in_process")

BACKEND = "pytorch-quantization"
Cli = Callable[..., SimpleNamespace]

pytest.importorskip("quantcore_onnx")


def test_a_comparison_adds_what_a_correction_makes_of_each_calibration(
    cli: Cli, squares: SimpleNamespace, tmp_path: Path
) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    out = tmp_path / "comparison"
    (tmp_path / "four.yaml").write_text("{placement: minimal, images: 4, weights: {bits: 4}}\n")
    where = [*squares.model, "--data", squares.data]
    given = ["--policy", tmp_path / "four.yaml", "--backend", BACKEND, "--out", out]
    done = cli("compare", *where, *given, "--correct", "gptq")
    assert done.code == 0, done.err
    plain, corrected = json.loads((out / "report.json").read_text())["variants"]
    assert (plain["step"], corrected["step"]) == ("", "gptq")
    assert "every range stays as it is, the float network does not" in corrected["note"]
    assert corrected["note"] in done.out
    assert f"{BACKEND}, gptq" in (out / "report.html").read_text()
    model, tables = (
        pipeline.load_model("onnx", out / corrected["artifacts"]["float"]),
        [CalibrationTable.load(out / v["artifacts"]["table"]) for v in (plain, corrected)],
    )
    assert tables[1].provenance.fingerprint == model.fingerprint
    assert tables[0].tensors == tables[1].tensors

    # The command by itself makes the same network.
    alone = tmp_path / "alone.onnx"
    table = ["--table", out / f"{BACKEND}.table.json"]
    done = cli("correct", "gptq", *where, *table, "--images", "4", "--out", alone)
    assert done.code == 0, done.err
    assert "gptq: weights lie on their codes" in done.out
    assert "quantcore quantize onnx" in done.out
    assert pipeline.load_model("onnx", alone).fingerprint == model.fingerprint
    assert CalibrationTable.load(tmp_path / "alone.table.json").tensors == tables[1].tensors

    refused = cli("correct", "equalize", *where, *table, "--out", tmp_path / "no.onnx")
    assert refused.code == 2
    assert "'equalize' is no correction" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rewrite", "gptq"], "'gptq' is a correction"),
        (["compare", "--backend", BACKEND, "--rewrite", "gptq"], "'gptq' is a correction"),
        (["compare", "--backend", BACKEND, "--correct", "equalize"], "is no correction"),
        (["compare", "--backend", BACKEND, "--recipe", "x.yaml"], "--recipe needs --qat"),
    ],
)
def test_what_is_asked_in_the_wrong_place_is_refused(
    cli: Cli, squares: SimpleNamespace, tmp_path: Path, words: list[str], said: str
) -> None:
    pytest.importorskip("quantcore_pytorch_quantization")
    where = [*squares.model, "--data", squares.data, "--out", tmp_path / "out"]
    placed = ["--placement", "minimal"] if words[0] == "compare" else []
    done = cli(*words, *where, *placed)
    assert done.code == 2
    assert said in done.err
