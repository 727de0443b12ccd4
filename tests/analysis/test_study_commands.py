"""The two commands: what they write, and their exit codes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from quantcore_onnx import OnnxOptions
from typer.testing import CliRunner

from quantcore.commands import study
from quantcore.errors import UsageError
from quantcore.pipeline import load_model
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import plan

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def call(shared_squares: SimpleNamespace, table: Callable, tmp_path: Path) -> Callable:
    model = load_model("onnx", shared_squares.weights, OnnxOptions(preset="yolox"))
    amax = {layer.inputs[0]: 60.0 for layer in model.layers if layer.weights}
    found = table(
        model,
        plan(model, CalibrationPolicy(placement=MINIMAL)),
        amax={**amax, model.input_name: 255.0},
    )
    found.save(tmp_path / "table.json")
    app = typer.Typer()
    app.command("sensitivity")(study.sensitivity)
    app.command("mixed")(study.mixed)

    def run(command: str, *options: object) -> object:
        given = [command, *shared_squares.model, "--data", shared_squares.data, *options]
        return CliRunner().invoke(app, [str(option) for option in given])

    return run


def test_sensitivity_writes_report_and_picture(
    call: Callable, shared_squares: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    done = call("sensitivity", "--table", tmp_path / "table.json", "--out", out, "--eval-images", 4)
    assert done.exit_code == 0, done.output
    report = json.loads((out / "sensitivity.json").read_text())
    assert (report["images"], report["split"], report["method"]) == (4, "val2017", "detections")
    page = (out / "sensitivity.html").read_text()
    assert "<svg" in page
    weights = hashlib.sha256((shared_squares.weights).read_bytes()).hexdigest()
    assert report["manifest"]["weights_sha256"] == weights
    assert report["manifest"]["versions"]["onnxruntime"]
    assert report["manifest"]["command"].startswith("quantcore")
    assert weights in page


def test_mixed_writes_a_policy_and_verifies_it(call: Callable, tmp_path: Path) -> None:
    out = tmp_path / "policy.yaml"
    options = ["--table", tmp_path / "table.json", "--out", out, "--min-int8", 0]
    done = call("mixed", *options, "--max-drop", 1, "--verify", "val2017")
    assert done.exit_code == 0, done.output
    assert CalibrationPolicy.load(out).layers == ()
    report = json.loads((tmp_path / "policy.mixed" / "mixed.json").read_text())
    assert report["split"] == "train2017"
    assert report["unseen"]["split"] == "val2017"
    assert (tmp_path / "policy.mixed" / "mixed.html").is_file()


def test_a_target_that_cannot_be_met_ends_with_code_1(
    call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quantcore.studies.mixed.WholeModelEvaluator._expected", lambda self, loss: 0.5
    )
    out = tmp_path / "policy.yaml"
    done = call("mixed", "--table", tmp_path / "table.json", "--out", out, "--max-drop", 0)
    assert done.exit_code == 1
    assert "NOT met" in done.output
    assert "# DOES NOT meet" in out.read_text()
    assert CalibrationPolicy.load(out)


def test_mixed_wants_a_table_or_a_backend(call: Callable, tmp_path: Path) -> None:
    done = call("mixed", "--out", tmp_path / "policy.yaml")
    assert isinstance(done.exception, UsageError)
