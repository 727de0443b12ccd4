"""TensorRT without a GPU: real builds with tensorrt_rtx; with one: real inference."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from quantcore import pipeline
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.engines.audit import inspect
from quantcore.engines.onnxruntime import OnnxRuntimeOptions
from quantcore.engines.tensorrt import cuda
from quantcore.engines.tensorrt.inspector import read_layers
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.errors import EngineError
from quantcore.evaluation.latency import LatencyTest, measure
from quantcore.runtime.progress import Progress

GPU = isinstance(cuda.gpu(), cuda.Gpu)
without_gpu = pytest.mark.skipif(GPU, reason="there is a GPU")
with_gpu = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="needs a CUDA device")]


@pytest.fixture
def plugin():
    # As a module of its own: type stubs of the other library look importable.
    pytest.importorskip("tensorrt_rtx")
    return load_engine("tensorrt")


class Log(Progress):
    """Writes down what was reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, description, total) -> int:
        self.lines.append(f"start {description} {total}")
        return len(self.lines)

    def advance(self, task) -> None:
        self.lines.append("advance")

    def stop(self, task) -> None:
        self.lines.append("stop")


@pytest.mark.parametrize("kind", ["float", "qdq"])
def test_small_graphs_build(plugin, qdq, joined, tmp_path, kind) -> None:
    proto = joined.proto if kind == "float" else qdq(joined)
    log = Log()
    out = tmp_path / "engine.plan"
    report = plugin.build_ahead(proto, EngineOptions(max_batch=4), out, log)
    assert out.stat().st_size == report.plan_bytes > 1000
    manifest = json.loads(report.manifest.read_text())
    assert manifest["versions"] == dict(plugin.versions())
    assert manifest["hardware"] == report.hardware
    assert manifest["options"]["max_batch"] == 4
    assert log.lines[0].startswith("start tensorrt")
    assert log.lines[-1] == "stop"
    assert log.lines.count("advance") == int(log.lines[0].split()[-1])
    if not GPU:
        assert not report.verified


@without_gpu
def test_a_build_claims_nothing_about_precision(plugin, qdq, joined) -> None:
    found = inspect(plugin, qdq(joined))
    assert found.int8 == 0
    assert found.unverified == 3
    assert "built, precision not verified" in found.summary()


@pytest.mark.parametrize("name", ["yolov7-tiny"])
def test_detectors_build(plugin, name, tmp_path) -> None:
    with resources.as_file(resources.files("quantcore") / "demo_data") as root:
        model = pipeline.load_model(name, root / "yolov7-tiny-digits.safetensors")
    report = plugin.build_ahead(model.proto, EngineOptions(), tmp_path / "engine.plan")
    assert report.plan_bytes > model.proto.ByteSize() / 2


def test_targets_can_be_chosen(plugin, chain, tmp_path) -> None:
    out = tmp_path / "engine.plan"
    report = plugin.build_ahead(chain.proto, TensorRtOptions(target="SM89"), out)
    assert "SM89" in report.hardware
    out.unlink()
    with pytest.raises(EngineError, match=r"no target 'SM90'; it has .*SM75.*SM120"):
        plugin.build_ahead(chain.proto, TensorRtOptions(target="SM90"), out)
    assert not out.exists()


def test_a_timing_cache_is_refused_where_it_would_do_nothing(plugin, chain, tmp_path) -> None:
    options = TensorRtOptions(timing_cache=tmp_path / "cache")
    with pytest.raises(EngineError, match="no timing cache"):
        plugin.build_ahead(chain.proto, options, tmp_path / "engine.plan")
    assert list(tmp_path.iterdir()) == []


def test_parser_errors_name_the_node(plugin, qdq, joined, by_hand, tmp_path) -> None:
    bad = by_hand.rename(qdq(joined), "left.act.sigmoid", "NotAnOp")
    with pytest.raises(EngineError, match=r"refuses the graph: NotAnOp 'left.act.sigmoid': ."):
        plugin.build_ahead(bad, EngineOptions(), tmp_path / "engine.plan")
    assert list(tmp_path.iterdir()) == []


def test_zero_points_are_refused_with_the_node(plugin, qdq, joined, by_hand, tmp_path) -> None:
    bad = by_hand.wider(qdq(joined), "cat.zero_point", np.array(3, np.int8))
    with pytest.raises(EngineError, match=r"'cat\.(de)?quantize'"):
        plugin.build_ahead(bad, EngineOptions(), tmp_path / "engine.plan")


def test_open_image_sizes_are_refused(plugin, chain, tmp_path) -> None:
    import onnx

    proto = onnx.ModelProto.FromString(chain.proto.SerializeToString())
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(EngineError, match=r"'images': TensorRT needs fixed sizes.*any x 3 x any"):
        plugin.build_ahead(proto, EngineOptions(), tmp_path / "engine.plan")


@without_gpu
def test_inference_without_a_gpu_is_one_clear_line(plugin, chain) -> None:
    with pytest.raises(EngineError, match=r"cannot run a graph here: .*quantcore build") as caught:
        plugin.build(chain.proto, EngineOptions())
    assert "\n" not in str(caught.value)


@without_gpu
def test_a_plan_without_a_gpu_is_one_clear_line(plugin, chain, tmp_path) -> None:
    path = tmp_path / "engine.plan"
    plugin.build_ahead(chain.proto, EngineOptions(), path)
    told = r"engine\.plan: .* cannot run a plan here: .*built with tensorrt_?\w* \d"
    with pytest.raises(EngineError, match=told) as caught:
        plugin.load(path, EngineOptions())
    assert "\n" not in str(caught.value)


def test_execution_providers_are_refused(plugin, chain, tmp_path) -> None:
    options = OnnxRuntimeOptions(providers=("CPUExecutionProvider",))
    with pytest.raises(EngineError, match="'tensorrt' takes no providers: CPUExecutionProvider"):
        plugin.build_ahead(chain.proto, options, tmp_path / "engine.plan")


@pytest.mark.parametrize(
    ("format_", "precision"),
    [
        ("Row major linear FP32", "fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Half", "fp16"),
        ("BF16", "bf16"),
        ("Row major INT8", "int8"),
        ("something new", None),
    ],
)
def test_the_inspector_is_read(format_, precision) -> None:
    entry = {
        "Name": "a + PWN(b)",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": format_}],
        "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]",
    }
    (layer,) = read_layers({"Layers": [entry]})
    assert (layer.precision, layer.nodes, layer.op) == (precision, ("a", "b"), "CaskConvolution")


def test_names_alone_prove_nothing() -> None:
    (layer,) = read_layers({"Layers": ["a + b"]})
    assert layer.precision is None


class TestOnAGpu:
    pytestmark = with_gpu

    @pytest.mark.parametrize("batch", [1, 3])
    def test_inference_agrees_with_onnx_runtime(self, plugin, joined, run, pictures, batch) -> None:
        want = run(joined.proto, pictures[:batch])["y"]
        with plugin.build(joined.proto, EngineOptions(max_batch=4, exact=True)) as engine:
            for _ in range(3):  # directly, then recorded, then launched
                got = engine.infer(pictures[:batch])["y"]
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)

    def test_a_plan_is_opened_and_timed(self, plugin, joined, run, pictures, tmp_path) -> None:
        path = tmp_path / "engine.plan"
        plugin.build_ahead(joined.proto, EngineOptions(max_batch=4, exact=True), path)
        want = run(joined.proto, pictures)["y"]
        with plugin.load(path, EngineOptions()) as engine:
            np.testing.assert_allclose(engine.infer(pictures)["y"], want, rtol=1e-3, atol=1e-3)
            found = measure([engine], LatencyTest(batch=pictures, warmup=3, runs=10)).result()
        assert found.device_p50_ms is not None
        assert 0 < found.device_p50_ms < found.p50_ms

    def test_the_audit_is_verified(self, plugin, qdq, joined) -> None:
        assert inspect(plugin, qdq(joined)).verified

    def test_larger_batches_are_refused(self, plugin, joined, pictures) -> None:
        with (
            plugin.build(joined.proto, EngineOptions(max_batch=2)) as engine,
            pytest.raises(EngineError, match="up to 2"),
        ):
            engine.infer(pictures)


def test_the_shared_checkpoints_build(plugin, tmp_path) -> None:
    reference = Path(__file__).resolve().parents[3] / "shared" / "reference"
    if not reference.exists():
        pytest.skip("needs the reference checkpoints beside the project")
    model = pipeline.load_model("yolov7-tiny", reference / "yolov7-tiny.pt")
    report = plugin.build_ahead(model.proto, EngineOptions(), tmp_path / "engine.plan")
    assert report.plan_bytes > 1e6
