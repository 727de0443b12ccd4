"""`quantcore show`: what a Q/DQ graph of any tool holds, as a page."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcore.analysis.contents import contents, differences

Cli = Callable[..., SimpleNamespace]


def graphs() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A convolution and an activation, float and with pairs as another tool writes them."""
    weight = np.linspace(-1, 1, 2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3)
    shape = {"x": ["b", 3, 8, 8], "y": ["b", 2, 6, 6]}
    ends = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shape.items()}

    def model(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
        values = [numpy_helper.from_array(v, n) for n, v in constants.items()]
        graph = helper.make_graph(nodes, "g", [ends["x"]], [ends["y"]], values)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    node = helper.make_node
    relu = node("Relu", ["c"], ["y"], "relu")
    whole = model([node("Conv", ["x", "w"], ["c"], "conv"), relu], w=weight)
    scales = np.asarray([0.5, 1.0], np.float32) / 127
    codes = np.clip(np.rint(weight / scales[:, None, None, None]), -128, 127).astype(np.int8)
    pairs = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "d"),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "dw", axis=0),
        node("Conv", ["xd", "wd"], ["c"], "conv"),
        relu,
    ]
    small = {"s": np.float32(1 / 255), "z": np.uint8(0), "wz": np.zeros(2, np.int8)}
    arrays = {name: np.asarray(value) for name, value in small.items()}
    return whole, model(pairs, wq=codes, ws=scales, **arrays)


def test_layers_tell_their_codes_scales_and_ranges() -> None:
    _, quantized = graphs()
    conv, relu = contents(quantized, {})
    assert (conv.name, conv.precision, relu.precision) == ("conv", "uint8", "float")
    assert conv.data is not None
    assert conv.data.span == pytest.approx((0, 1))
    assert conv.data.tensor == "x"
    assert conv.weight is not None
    assert (conv.weight.scales, conv.weight.symmetric) == (2, True)
    assert conv.weight.span == pytest.approx((-128 / 127, 1))


def test_the_error_is_the_signal_to_noise_of_each_tensor() -> None:
    whole, quantized = graphs()
    batch = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    found = differences(quantized, whole, batch)
    assert found.keys() == {"c", "y"}
    assert found["c"] is not None
    assert 0 < found["c"] < 60
    assert set(differences(whole, whole, batch).values()) == {None}


def test_the_command_writes_a_page(cli: Cli, tmp_path: Path) -> None:
    paths = [tmp_path / "float.onnx", tmp_path / "q.onnx"]
    for path, graph in zip(paths, graphs(), strict=True):
        onnx.save(graph, path)
    np.save(tmp_path / "x.npy", np.ones((1, 3, 8, 8), np.float32))
    done = cli("show", paths[1], "--against", paths[0], "--input", tmp_path / "x.npy")
    assert done.code == 0, done.err
    assert "1 of 1 layers with weights have codes on input and weight" in done.out
    assert "on the given input" in done.out
    assert "2: 0.00394 to 0.00787" in (tmp_path / "q.html").read_text()
    assert cli("show", paths[1], "--against", paths[0]).code == 0, "on noise"
    assert cli("show", paths[1], "--out", tmp_path / "alone.html").code == 0
    assert "dB" not in (tmp_path / "alone.html").read_text()


def test_refusals(cli: Cli, tmp_path: Path) -> None:
    paths = [tmp_path / "float.onnx", tmp_path / "q.onnx"]
    for path, graph in zip(paths, graphs(), strict=True):
        onnx.save(graph, path)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "flat.npy", np.ones(3, np.float32))
    for name, told in (("bad.npy", "not an array"), ("flat.npy", "B x C x H x W")):
        done = cli("show", paths[1], "--against", paths[0], "--input", tmp_path / name)
        assert done.code == 2
        assert told in done.err
        assert "Traceback" not in done.err
