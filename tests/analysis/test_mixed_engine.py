"""`mixed --engine`: the search goes by the latency that an engine really has."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from quantcore_onnx import OnnxOptions

from quantcore.pipeline import load_model
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import MINIMAL
from quantcore.qdq.placement import plan

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def mixed(
    cli: Callable[..., SimpleNamespace],
    shared_squares: SimpleNamespace,
    table: Callable,
    tmp_path: Path,
) -> Callable[..., SimpleNamespace]:
    """Runs the command; the policy goes to `policy.yaml`."""
    model = load_model("onnx", shared_squares.weights, OnnxOptions(preset="yolox"))
    amax = {layer.inputs[0]: 60.0 for layer in model.layers if layer.weights}
    sites = plan(model, CalibrationPolicy(placement=MINIMAL))
    table(model, sites, amax={**amax, model.input_name: 255.0}).save(tmp_path / "table.json")
    (tmp_path / "minimal.yaml").write_text("placement: minimal\n")

    def run(*options: object) -> SimpleNamespace:
        files = ["--table", tmp_path / "table.json", "--policy", tmp_path / "minimal.yaml"]
        out = ["--data", shared_squares.data, "--out", tmp_path / "policy.yaml"]
        return cli("mixed", *shared_squares.model, *files, *out, *options)

    return run


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_mixed_can_go_by_the_latency_of_an_engine(
    mixed: Callable[..., SimpleNamespace], tmp_path: Path, engine: str
) -> None:
    pytest.importorskip(engine)
    done = mixed("--min-int8", 0, "--max-drop", 1, "--engine", engine)
    assert done.code == 0, done.err
    assert f"ms on {engine}" in done.out
    report = json.loads((tmp_path / "policy.mixed" / "mixed.json").read_text())
    assert report["speed"]["engine"] == engine
    assert report["speed"]["float_latency_ms"]["p50_ms"] > 0
    assert report["chosen"]["latency_ms"]["p50_ms"] > 0
    assert all(point["latency_ms"] for point in report["frontier"])
    page = (tmp_path / "policy.mixed" / "mixed.html").read_text()
    assert f"latency on {engine}, ms" in page
    kept = CalibrationPolicy.load(tmp_path / "policy.yaml").layers
    assert len(kept) == report["chosen"]["layers_kept"]


def test_an_unknown_engine_is_refused_before_any_work(
    mixed: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    done = mixed("--engine", "steam")
    assert done.code == 2
    assert "steam" in done.err
    assert not (tmp_path / "policy.mixed" / "journal.jsonl").exists()
