"""Every family against an independent torch forward, in training and in deploy form."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime as ort
import pytest
import torch
import yolo_layer_lists as layer_lists
from quantcore_yolo import YoloPlugin
from yolo_torch import Model, checkpoint, save_pt, save_safetensors

from quantcore.contracts.model import ModelOptions
from quantcore.contracts.options import filled
from quantcore.errors import UsageError

CASES = {
    "yolov5n": ("yolov5n", layer_lists.yolov5),
    "yolov5-focus": ("yolov5s", layer_lists.old_yolov5),
    "yolov7-tiny": ("yolov7-tiny", layer_lists.tiny_like),
    "yolov7": ("yolov7", layer_lists.yolov7),
    "yolov7x": ("yolov7x", layer_lists.yolov7x),
}


def run(model, images):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.proto.SerializeToString(), options)
    return session.run(None, {"images": images})


def images(size=64, batch=2):
    return np.random.default_rng(1).random((batch, 3, size, size), dtype=np.float32)


def difference(ours, theirs):
    assert [a.shape for a in ours] == [tuple(b.shape) for b in theirs]
    pairs = zip(ours, theirs, strict=True)
    return max(
        float(np.abs(a - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs
    )


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_torch(case, tmp_path):
    name, layer_list = CASES[case]
    network = Model(layer_list())
    save_safetensors(network, tmp_path / "m.safetensors")
    model = YoloPlugin(name).load(tmp_path / "m.safetensors", ModelOptions())
    with torch.no_grad():
        wanted = network.double()(torch.from_numpy(images()).double())
    assert difference(run(model, images()), wanted) < 1e-5
    assert model.class_names == ("thing 0", "thing 1", "thing 2")
    assert model.preprocessing.size == (64, 64)
    assert model.decoding.anchors[0][0] == tuple(map(float, network.yaml["anchors"][0][:2]))
    assert list(model.decoding.strides) == network.stride.int().tolist()


@pytest.mark.parametrize("size", ["n", "s", "m", "l", "x"])
def test_depths_of_yolov5(size, tmp_path):
    depth, width = {
        "n": (0.33, 0.03), "s": (0.33, 0.06), "m": (0.67, 0.03), "l": (1.0, 0.03), "x": (1.33, 0.03)
    }[size]  # fmt: skip
    network = Model(layer_lists.yolov5(width, depth))
    save_safetensors(network, tmp_path / "m.safetensors")
    model = YoloPlugin(f"yolov5{size}").load(tmp_path / "m.safetensors", ModelOptions())
    with torch.no_grad():
        wanted = network(torch.from_numpy(images()))
    assert difference(run(model, images()), wanted) < 1e-4
    adds = [layer for layer in model.layers if layer.op == "add"]
    assert len(adds) == sum(max(round(n * depth), 1) for n in (3, 6, 9, 3))


@pytest.mark.parametrize("case", ["yolov5n", "yolov7-tiny", "yolov7"])
def test_deploy_form_gives_the_same_graph(case, tmp_path):
    name, layer_list = CASES[case]
    network = Model(layer_list())
    save_pt(checkpoint(network), tmp_path / "train.pt")
    save_pt(checkpoint(copy.deepcopy(network).fuse()), tmp_path / "deploy.pt")
    options = ModelOptions(image_size=64)
    train = YoloPlugin(name).load(tmp_path / "train.pt", options)
    deploy = YoloPlugin(name).load(tmp_path / "deploy.pt", options)
    assert [n.name for n in train.proto.graph.node] == [n.name for n in deploy.proto.graph.node]
    assert set(train.initializers) == set(deploy.initializers)
    assert difference(run(deploy, images()), run(train, images())) < 1e-5


def test_head_without_implicit_knowledge(tmp_path):
    network = Model(layer_lists.yolov7())
    save_safetensors(network, tmp_path / "train.safetensors")
    network.fuse()
    network.yaml["head"][-1][2] = "Detect"
    del network.model[-1].ia, network.model[-1].im
    save_safetensors(network, tmp_path / "deploy.safetensors")
    train, deploy = (
        YoloPlugin("yolov7").load(tmp_path / f"{form}.safetensors", ModelOptions())
        for form in ("train", "deploy")
    )
    assert difference(run(deploy, images()), run(train, images())) < 1e-5


def test_identity_branch_of_repconv(tmp_path):
    description = layer_lists.yolov7()
    description["head"][-4][3][0] = 128  # as many channels out as in
    network = Model(description)
    assert network.model[102].rbr_identity is not None
    save_safetensors(network, tmp_path / "m.safetensors")
    model = YoloPlugin("yolov7").load(tmp_path / "m.safetensors", ModelOptions())
    with torch.no_grad():
        wanted = network(torch.from_numpy(images()))
    assert difference(run(model, images()), wanted) < 1e-4


def test_half_precision_and_ema(tmp_path):
    network, average = Model(layer_lists.yolov5()), Model(layer_lists.yolov5(), seed=7).half()
    content = checkpoint(network) | {"ema": average}
    save_pt(content, tmp_path / "m.pt")
    model = YoloPlugin("yolov5n").load(tmp_path / "m.pt", ModelOptions(image_size=64))
    with torch.no_grad():
        wanted = average.float()(torch.from_numpy(images()))
    assert difference(run(model, images()), wanted) < 1e-4


def test_names_and_shapes(tmp_path):
    save_safetensors(Model(layer_lists.yolov7()), tmp_path / "m.safetensors")
    model = YoloPlugin("yolov7").load(tmp_path / "m.safetensors", ModelOptions())
    names = {node.name for node in model.proto.graph.node}
    assert {
        "model.0.conv", "model.0.act.sigmoid", "model.0.act.mul", "model.10", "model.12.m",
        "model.51.m.2", "model.51.cat", "model.53", "model.102.rbr_reparam", "model.105.m.0",
    } <= names  # fmt: skip
    assert model.batch_size is None
    assert model.input_name == "images"
    shaped = {info.name for info in model.proto.graph.value_info} | set(model.output_names)
    assert shaped == {o for node in model.proto.graph.node for o in node.output}
    conv = model.layers[0]
    assert (conv.name, conv.op, conv.weights) == (
        "model.0.conv",
        "conv2d",
        ("model.0.conv.weight",),
    )


def test_same_bytes_twice(tmp_path):
    save_pt(checkpoint(Model(layer_lists.yolov5())), tmp_path / "m.pt")
    first, second = (
        YoloPlugin("yolov5n").load(tmp_path / "m.pt", ModelOptions(image_size=64)) for _ in "ab"
    )
    assert first.proto.SerializeToString() == second.proto.SerializeToString()
    assert first.fingerprint == second.fingerprint


def test_image_size(tmp_path):
    save_safetensors(Model(layer_lists.yolov5()), tmp_path / "m.safetensors", image_size="")
    plugin = YoloPlugin("yolov5n")
    assert plugin.load(tmp_path / "m.safetensors", ModelOptions()).preprocessing.size == (640, 640)
    with pytest.raises(UsageError, match="multiple of this model's stride 32; try 96"):
        plugin.load(tmp_path / "m.safetensors", ModelOptions(image_size=100))
    with pytest.raises(UsageError):
        plugin.load(tmp_path / "m.safetensors", ModelOptions(image_size=0))
    with pytest.raises(UsageError, match="no option 'preset'; it takes: none"):
        filled(plugin.options, [("preset", "yolov5")], "model 'yolov5n'")


def test_an_image_need_not_be_square(tmp_path):
    save_safetensors(Model(layer_lists.yolov5()), tmp_path / "m.safetensors", image_size="")
    found = YoloPlugin("yolov5n").load(tmp_path / "m.safetensors", ModelOptions((64, 96)))
    assert found.preprocessing.size == (64, 96)
    dims = found.proto.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims[2:]] == [64, 96]
    with pytest.raises(UsageError, match="image size 80 is no multiple"):
        YoloPlugin("yolov5n").load(tmp_path / "m.safetensors", ModelOptions((64, 80)))
