"""ONNX Runtime as an engine: what its optimizer leaves, and execution providers."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.engines.audit import inspect
from quantcore.engines.onnxruntime import OnnxRuntimeOptions
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.errors import EngineError


@pytest.fixture
def plugin():
    return load_engine("onnxruntime")


@pytest.mark.parametrize("exact", [False, True])
def test_float_convolutions_keep_their_names_and_fp32(plugin, net, precisions, exact) -> None:
    with plugin.build(net.proto, EngineOptions(threads=1, exact=exact)) as engine:
        assert set(precisions(engine, net.proto).values()) == {"fp32"}


def test_a_float_bias_and_an_activation_keep_convolutions_in_float(plugin, qdq, joined) -> None:
    found = inspect(plugin, qdq(joined), EngineOptions(threads=1))
    assert found.verified
    assert found.int8 == 0
    why = {layer.node: layer.why for layer in found.layers}
    assert why["left"] == (
        "its bias is float; its output goes to Sigmoid, Mul instead of QuantizeLinear: "
        "not the QLinearConv pattern"
    )
    assert "the graph's output" in why["last"]
    assert found.summary().endswith("0 of 3 quantized layers run in INT8")


def test_the_qlinearconv_pattern_is_seen(plugin, qdq, chain) -> None:
    found = inspect(plugin, qdq(chain), EngineOptions(threads=1))
    layers = {layer.node: layer for layer in found.layers}
    assert (layers["first"].runs_as, layers["first"].precision) == ("QLinearConv", "int8")
    assert layers["first"].why is None
    assert layers["second"].precision == "fp32"


def test_exact_runs_the_graph_as_it_stands(plugin, qdq, chain) -> None:
    proto = qdq(chain)
    with plugin.build(proto, EngineOptions(threads=1, exact=True)) as engine:
        ops = [layer.op for layer in engine.layers()]
    assert sorted(ops) == sorted(node.op_type for node in proto.graph.node)


def test_engines_that_share_memory_run_in_turns_and_side_by_side(plugin, net, pictures) -> None:
    with plugin.build(net.proto, EngineOptions(threads=1)) as alone:
        expected = alone.infer(pictures)
    options = EngineOptions(threads=1, shared_memory=True)
    with (
        plugin.build(net.proto, options) as first,
        plugin.build(net.proto, options) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        found = list(pool.map(lambda engine: engine.infer(pictures), [first, second] * 4))
    for heads in found:
        for name, values in heads.items():
            np.testing.assert_array_equal(values, expected[name])


def test_unknown_providers_are_refused_with_those_there_are(plugin, net) -> None:
    with pytest.raises(
        EngineError, match=r"no execution provider 'Nonsense'.*CPUExecutionProvider"
    ):
        plugin.build(net.proto, OnnxRuntimeOptions(providers=("Nonsense",)))


def test_the_cpu_can_be_asked_for(plugin, net, run, pictures) -> None:
    options = OnnxRuntimeOptions(threads=1, providers=("CPUExecutionProvider",))
    with plugin.build(net.proto, options) as engine:
        assert engine.infer(pictures)["y"].shape == run(net.proto, pictures)["y"].shape
        assert all(layer.precision for layer in engine.layers())


def test_build_ahead_saves_the_optimized_graph(plugin, qdq, chain, tmp_path) -> None:
    report = plugin.build_ahead(qdq(chain), EngineOptions(threads=1), tmp_path / "plan.onnx")
    ops = [node.op_type for node in onnx.load(tmp_path / "plan.onnx").graph.node]
    assert "QLinearConv" in ops
    assert report.verified


def test_a_closed_engine_says_so(plugin, net, pictures) -> None:
    engine = plugin.build(net.proto, EngineOptions(threads=1))
    engine.close()
    for call in (engine.layers, lambda: engine.infer(pictures)):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_what_was_built_can_be_opened(plugin, qdq, chain, pictures, tmp_path) -> None:
    proto, path = qdq(chain), tmp_path / "plan.onnx"
    options = EngineOptions(threads=1)
    plugin.build_ahead(proto, options, path)
    with plugin.build(proto, options) as built, plugin.load(path, options) as loaded:
        want, got = built.infer(pictures)["y"], loaded.infer(pictures)["y"]
        assert (got == want).all()
        assert "QLinearConv" in {layer.op for layer in loaded.layers()}
        assert loaded.runs_on() == "CPUExecutionProvider"


def test_plans_of_others_and_broken_ones_are_refused(plugin, net, tmp_path) -> None:
    path = tmp_path / "plan.onnx"
    with pytest.raises(EngineError, match=r"plan\.onnx: cannot read the plan: No such file"):
        plugin.load(path, EngineOptions())
    plugin.build_ahead(net.proto, EngineOptions(threads=1), path)
    path.write_bytes(b"\xff" * 100)
    told = r"plan\.onnx: not an ONNX graph: .* \(it was built with onnxruntime \d.* for .+\)"
    with pytest.raises(EngineError, match=told):
        plugin.load(path, EngineOptions())
    manifest = path.with_name("plan.onnx.manifest.json")
    manifest.write_text(manifest.read_text().replace('"engine": "onnxruntime"', '"engine": "x"'))
    with pytest.raises(EngineError, match="was built by engine 'x'; use --engine x"):
        plugin.load(path, EngineOptions())
    for broken in ("{", "[]", "{}"):
        manifest.write_text(broken)
        with pytest.raises(EngineError, match=r"plan\.onnx\.manifest\.json: not "):
            plugin.load(path, EngineOptions())


def test_an_engine_without_files_refuses_them(plugin, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(type(plugin), "builds_ahead", False)
    with pytest.raises(EngineError, match="keeps no built file"):
        plugin.load(tmp_path / "plan.onnx", EngineOptions())


def test_a_provider_that_runs_nothing_is_not_told(plugin, net, pictures) -> None:
    """Azure's is in ordinary builds and takes no nodes of its own accord."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no second execution provider")
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip("this release of ONNX Runtime does not tell where nodes run")
    options = OnnxRuntimeOptions(threads=1, providers=("AzureExecutionProvider",))
    with plugin.build(net.proto, options) as engine:
        engine.infer(pictures)
        assert {layer.precision for layer in engine.layers()} == {None}
        assert re.fullmatch(r"CPUExecutionProvider \(\d+ nodes\)", engine.runs_on())


def test_options_of_other_engines_are_refused(plugin, net) -> None:
    with pytest.raises(EngineError, match="'onnxruntime' takes no target: SM86"):
        plugin.build(net.proto, TensorRtOptions(target="SM86"))


def test_another_provider_runs_the_graph_where_one_is_installed(
    plugin, qdq, chain, pictures
) -> None:
    """With `onnxruntime-openvino`, `onnxruntime-gpu`, ...: the numbers, and who ran what."""
    onnxruntime = pytest.importorskip("onnxruntime")
    ordinary = {"AzureExecutionProvider", "CPUExecutionProvider"}
    others = [n for n in onnxruntime.get_available_providers() if n not in ordinary]
    if not others:
        pytest.skip("only the ordinary build of ONNX Runtime is installed")
    want = plugin.build(chain.proto, EngineOptions(threads=1)).infer(pictures)["y"]
    with plugin.build(chain.proto, OnnxRuntimeOptions(threads=1, providers=(others[0],))) as engine:
        np.testing.assert_allclose(engine.infer(pictures)["y"], want, rtol=1e-3, atol=1e-3)
        assert engine.runs_on().startswith(others[0])
        assert {layer.precision for layer in engine.layers()} <= {None}
