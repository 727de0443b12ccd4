"""`build` and `inspect`, and how engines that are missing are listed."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from quantcore import registry
from quantcore.commands import engines
from quantcore.errors import EngineError


@pytest.fixture
def call():
    app = typer.Typer()
    app.command("build")(engines.build)
    app.command("inspect")(engines.inspect)

    def run(*arguments: object):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture
def graph(qdq, joined, tmp_path):
    path = tmp_path / "qdq.onnx"
    path.write_bytes(qdq(joined).SerializeToString())
    return path


def test_inspect_shows_every_quantized_layer(call, graph) -> None:
    out = call("inspect", graph, "--engine", "onnxruntime")
    assert "left" in out
    assert "fp32" in out
    assert out.rstrip().endswith("0 of 3 quantized layers run in INT8")


def test_inspect_as_json(call, graph) -> None:
    found = json.loads(call("inspect", graph, "--engine", "onnxruntime", "--json"))
    assert found["engine"] == "onnxruntime"
    assert [layer["node"] for layer in found["layers"]] == ["left", "right", "last"]
    assert found["verified"]


def test_inspect_refuses_unknown_providers(call, graph) -> None:
    with pytest.raises(EngineError, match="Nonsense"):
        call("inspect", graph, "--engine", "onnxruntime", "--provider", "Nonsense")


def test_build_writes_file_and_manifest(call, graph, tmp_path) -> None:
    out = tmp_path / "plan.onnx"
    said = call("build", graph, "--engine", "onnxruntime", "--out", out)
    assert "0 of 3 quantized layers run in INT8" in said
    manifest = json.loads((tmp_path / "plan.onnx.manifest.json").read_text())
    assert manifest["engine"] == "onnxruntime"
    assert manifest["plan"] == "plan.onnx"
    assert len(manifest["onnx_sha256"]) == 64


@pytest.mark.parametrize(
    ("engine", "requirement"), [("openvino", "openvino"), ("tensorrt", "tensorrt-rtx-cu13")]
)
def test_engines_that_are_missing_tell_how_to_install(engine, requirement) -> None:
    info = next(i for i in registry.installed(registry.ENGINES) if i.name == engine)
    if info.unavailable is None:
        registry.load_engine(engine)
    else:
        assert "pip install" in info.unavailable
        assert requirement in info.unavailable
