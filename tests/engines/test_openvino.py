"""OpenVINO: its numbers against ONNX Runtime, and what it says that it runs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.engines.audit import inspect
from quantcore.engines.common import has_vnni
from quantcore.engines.onnxruntime import OnnxRuntimeOptions
from quantcore.engines.openvino import _guard
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.errors import EngineError

pytest.importorskip("openvino")


@pytest.fixture
def plugin():
    return load_engine("openvino")


@pytest.mark.parametrize("batch", [1, 3])
def test_float_graphs_agree_with_onnx_runtime(plugin, net, run, pictures, batch) -> None:
    want = run(net.proto, pictures[:batch])
    with plugin.build(net.proto, EngineOptions(threads=1)) as engine:
        assert engine.input_shape == (None, 3, 16, 16)
        got = engine.infer(pictures[:batch])
    assert list(got) == list(net.output_names)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


def test_results_of_earlier_batches_stay(plugin, net, pictures) -> None:
    with plugin.build(net.proto, EngineOptions(threads=1)) as engine:
        first = engine.infer(pictures[:1])["y"]
        kept = first.copy()
        engine.infer(pictures[1:2])
    np.testing.assert_array_equal(first, kept)


def test_what_was_built_can_be_opened(plugin, qdq, joined, pictures, tmp_path) -> None:
    proto, path = qdq(joined), tmp_path / "net.blob"
    options = EngineOptions(threads=1)
    plugin.build_ahead(proto, options, path)
    with plugin.build(proto, options) as built, plugin.load(path, options) as loaded:
        assert loaded.input_shape == (1, 3, 16, 16)
        assert loaded.output_names == built.output_names
        want, got = built.infer(pictures[:1]), loaded.infer(pictures[:1])
        np.testing.assert_array_equal(got["y"], want["y"])
        assert loaded.runs_on() == built.runs_on() == "CPU"
        assert [layer.precision for layer in loaded.layers()] == [
            layer.precision for layer in built.layers()
        ]
    with pytest.raises(EngineError, match="closed"):
        loaded.infer(pictures[:1])
    path.write_bytes(b"no model")
    told = r"net\.blob: OpenVINO cannot open the model: .* built with openvino \d"
    with pytest.raises(EngineError, match=told):
        plugin.load(path, options)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["net", "joined", "chain"])
def test_qdq_graphs_agree_with_onnx_runtime(
    plugin, qdq, run, pictures, sqnr, request, name, exact
) -> None:
    if not exact and plugin.caveat():
        pytest.skip(plugin.caveat())
    proto = qdq(request.getfixturevalue(name))
    want = run(proto, pictures)
    with plugin.build(proto, EngineOptions(threads=1, exact=exact)) as engine:
        got = engine.infer(pictures)
        alone = engine.infer(pictures[:1])
    for head in want:
        assert sqnr(want[head], got[head]) > 30
        np.testing.assert_allclose(alone[head], got[head][:1], atol=0.1)


def test_quantized_convolutions_run_in_int8(plugin, qdq, joined, chain, precisions) -> None:
    for model in (joined, chain):
        proto = qdq(model)
        with plugin.build(proto, EngineOptions(threads=1)) as engine:
            assert set(precisions(engine, proto).values()) == {"int8"}
        found = inspect(plugin, proto)
        assert found.verified
        assert found.int8 == len(found.layers) > 0


def test_its_counters_tell_what_each_layer_takes(plugin, qdq, joined, pictures) -> None:
    for proto in (joined.proto, qdq(joined)):
        weighted = {node.name for node in proto.graph.node if node.op_type == "Conv"}
        with plugin.build(proto, EngineOptions(threads=1, counters=True)) as engine:
            times = engine.layer_seconds(pictures[:1])
            entries = engine._request(1).get_profiling_info()
        assert times.keys() == weighted
        assert all(0 <= seconds < 1 for seconds in times.values())
        everything = sum(entry.real_time.total_seconds() for entry in entries)
        assert sum(times.values()) == pytest.approx(everything, rel=1e-6)
    with plugin.build(joined.proto, EngineOptions(threads=1)) as engine:
        assert not any((engine.layer_seconds(pictures[:1]) or {}).values())


def test_the_rest_runs_in_fp32(plugin, qdq, net, joined, precisions) -> None:
    with plugin.build(net.proto, EngineOptions(threads=1)) as engine:
        assert set(precisions(engine, net.proto).values()) == {"fp32"}
    proto = qdq(joined, layers=[{"match": "left", "quantize": False}])
    with plugin.build(proto, EngineOptions(threads=1)) as engine:
        assert precisions(engine, proto)["left"] == "fp32"
        assert precisions(engine, proto)["right"] == "int8"
    with plugin.build(qdq(joined), EngineOptions(threads=1, exact=True)) as engine:
        assert set(precisions(engine, proto).values()) == {"fp32"}


def test_only_what_it_computes_wrongly_is_kept_from_being_fused(qdq, joined) -> None:
    """A bias reads the shape of what it is added to, and is no second reader of the values."""
    import openvino

    model = openvino.Core().read_model(qdq(joined).SerializeToString())
    _guard(model)
    kept = [node for node in model.get_ops() if node.get_type_name() == "Maximum"]
    behind = [node.input_value(0).get_node().get_type_name() for node in kept]
    assert behind == ["Concat"]


def test_a_layer_that_is_not_int8_is_explained(plugin, qdq, net) -> None:
    found = inspect(plugin, qdq(net))
    assert {layer.precision for layer in found.layers} <= {"int8", "fp32"}
    for layer in found.layers:
        assert (layer.why is None) == (layer.precision == "int8")


def test_build_ahead_writes_plan_and_manifest(plugin, qdq, chain, tmp_path) -> None:
    import openvino

    out = tmp_path / "sub" / "plan.blob"
    report = plugin.build_ahead(qdq(chain), EngineOptions(threads=1), out)
    manifest = json.loads(report.manifest.read_text())
    assert report.verified
    assert manifest["precision_verified"]
    assert manifest["plan_bytes"] == out.stat().st_size
    assert manifest["versions"] == dict(plugin.versions())
    assert any(layer["precision"] == "int8" for layer in manifest["layers"])
    assert openvino.Core().import_model(out.read_bytes(), "CPU").output().get_any_name() == "y"


def test_errors_name_the_reason(plugin, net, by_hand, pictures) -> None:
    with pytest.raises(EngineError, match=r"OpenVINO refuses the graph: .*m.1.conv"):
        plugin.build(by_hand.rename(net.proto, "m.0.act", "NotAnOp"), EngineOptions())
    for options in (OnnxRuntimeOptions(providers=("GPU",)), TensorRtOptions(target="SM86")):
        with pytest.raises(EngineError, match="takes no"):
            plugin.build(net.proto, options)
    engine = plugin.build(net.proto, EngineOptions(threads=1))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(pictures)
    with pytest.raises(EngineError, match="closed"):
        engine.layers()


def test_processors_without_vnni_are_told_apart(plugin, tmp_path, monkeypatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : x\nflags : fpu avx2 avx512_vnni\n")
    assert has_vnni(cpuinfo) is True
    cpuinfo.write_text("flags : fpu avx2\n")
    assert has_vnni(cpuinfo) is False
    cpuinfo.write_text("Features : asimddp\n")
    assert has_vnni(cpuinfo) is None
    monkeypatch.setattr("quantcore.engines.openvino.has_vnni", lambda: False)
    assert "saturate" in plugin.caveat()


def _random_net(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict, list[str]]:
    """Convolutions with and without bias, joined in any way; also tensors with many readers."""
    nodes, constants, channels = [], {}, {"images": 3}
    for number in range(6):
        kind = rng.choice(["Conv", "Conv", "Conv", "MaxPool", "Concat", "Add"])
        data = list(channels)[-1] if rng.random() < 0.6 else str(rng.choice(list(channels)))
        name, others = f"n{number}", [c for c in channels if c != data]
        if kind == "Conv":
            bias = [f"{name}.b"] if rng.random() < 0.5 else []
            weight = rng.normal(0, 0.3, (8, channels[data], 1, 1))
            constants[f"{name}.w"] = weight.astype(np.float32)
            constants |= {b: rng.normal(0, 0.3, 8).astype(np.float32) for b in bias}
            nodes.append(helper.make_node("Conv", [data, f"{name}.w", *bias], [name], name))
            channels[name] = 8
        elif kind == "MaxPool":
            pool = {"kernel_shape": [3, 3], "pads": [1] * 4}
            nodes.append(helper.make_node("MaxPool", [data], [name], name, **pool))
            channels[name] = channels[data]
        elif kind == "Concat" and others:
            other = str(rng.choice(others))
            nodes.append(helper.make_node("Concat", [data, other], [name], name, axis=1))
            channels[name] = channels[data] + channels[other]
        elif kind == "Add" and (same := [o for o in others if channels[o] == channels[data]]):
            nodes.append(helper.make_node("Add", [data, str(rng.choice(same))], [name], name))
            channels[name] = channels[data]
    read = {tensor for node in nodes for tensor in node.input}
    return nodes, constants, [c for c in channels if c != "images" and c not in read]


@pytest.mark.parametrize("seed", range(20))
def test_no_scale_is_lost_in_any_graph(plugin, build, qdq, run, pictures, sqnr, seed) -> None:
    if plugin.caveat():
        pytest.skip(plugin.caveat())
    nodes, constants, outputs = _random_net(np.random.default_rng(seed))
    if not constants:
        pytest.skip("no convolution was drawn")
    proto = qdq(build(nodes, constants, outputs))
    want = run(proto, pictures)
    with plugin.build(proto, EngineOptions(threads=1)) as engine:
        got = engine.infer(pictures)
    for head in want:
        assert sqnr(want[head], got[head]) > 30, head
