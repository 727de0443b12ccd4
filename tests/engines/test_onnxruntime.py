"""ONNX Runtime as an engine: what its optimizer leaves, and execution providers."""

from __future__ import annotations

import onnx
import pytest

from quantcore.engine import EngineOptions
from quantcore.engines.audit import inspect
from quantcore.errors import EngineError
from quantcore.registry import load_engine


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


def test_unknown_providers_are_refused_with_those_there_are(plugin, net) -> None:
    with pytest.raises(
        EngineError, match=r"no execution provider 'Nonsense'.*CPUExecutionProvider"
    ):
        plugin.build(net.proto, EngineOptions(providers=("Nonsense",)))


def test_the_cpu_can_be_asked_for(plugin, net, run, pictures) -> None:
    options = EngineOptions(threads=1, providers=("CPUExecutionProvider",))
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
