"""A small network in network on scikit-learn's digits, through the ordinary commands."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

from quantcore.commands.cli import app

pytestmark = pytest.mark.usefixtures("in_process")

#: Of each convolution: outputs, kernel.
LAYERS = ((24, 3), (24, 1), (48, 3), (48, 1), (10, 1))
TRAIN = 1000
RECIPE = "{steps: 40, batch: 32, zoom: 1.0, flip: 0.0, rate: 2.0e-3, held_out: 0}\n"
POLICY = """
placement: {{name: every layer, extends: minimal, zero_points: true}}
implementation: portable
images: 1000
activations: {{observer: mse, bits: {bits}, symmetric: {symmetric}}}
weights: {{bits: {bits}, granularity: per_tensor}}
"""


def network() -> nn.Sequential:
    modules: list[nn.Module] = []
    inputs = 3
    for n, (outputs, kernel) in enumerate(LAYERS):
        modules += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)]
        modules += [nn.BatchNorm2d(outputs), nn.ReLU()]
        modules += [nn.MaxPool2d(2)] if n == 1 else []
        inputs = outputs
    return nn.Sequential(*modules[:-1])


def fit(net: nn.Sequential, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    made = torch.Generator().manual_seed(0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=12 * 15)
    for _ in range(12):
        for part in torch.randperm(len(images), generator=made)[:960].split(64):
            optimizer.zero_grad()
            scores = net(images[part]).mean((2, 3))
            nn.functional.cross_entropy(scores, labels[part]).backward()
            optimizer.step()
            schedule.step()
    net.eval()


def written(net: nn.Sequential) -> onnx.ModelProto:
    """As ONNX, batch-norm folded."""
    node, x, nodes, constants = helper.make_node, "images", [], []
    for n, module in enumerate(net):
        if isinstance(module, nn.Conv2d):
            norm = net[n + 1]
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = module.weight * factor[:, None, None, None]
            for name, values in (("w", weight), ("b", norm.bias - norm.running_mean * factor)):
                constants.append(numpy_helper.from_array(values.detach().numpy(), f"{name}{n}"))
            pads = [module.padding[0]] * 4
            nodes.append(node("Conv", [x, f"w{n}", f"b{n}"], [f"x{n}"], f"conv{n}", pads=pads))
        elif isinstance(module, nn.ReLU):
            nodes.append(node("Relu", [x], [f"x{n}"], f"relu{n}"))
        elif isinstance(module, nn.MaxPool2d):
            two = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(node("MaxPool", [x], [f"x{n}"], f"pool{n}", **two))
        else:
            continue
        x = f"x{n}"
    nodes.append(node("GlobalAveragePool", [x], ["mean"], "mean"))
    nodes.append(node("Flatten", ["mean"], ["logits"], "flatten", axis=1))
    ends = (("images", ["batch", 3, 8, 8]), ("logits", ["batch", 10]))
    first, last = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in ends)
    graph = helper.make_graph(nodes, "nin", [first], [last], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images in folders of their classes, and a trained network."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    root = tmp_path_factory.mktemp("digits")
    order = np.random.default_rng(0).permutation(len(found.images))
    for place, n in enumerate(order):
        folder = root / "data" / ("train" if place < TRAIN else "val") / str(found.target[n])
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{n}.png"), np.uint8(found.images[n] * (255 / 16)))
    torch.manual_seed(0)
    net = network()
    pixels = np.repeat(np.uint8(found.images[order[:TRAIN]] * (255 / 16))[:, None], 3, axis=1)
    fit(
        net,
        torch.from_numpy(pixels / np.float32(255)),
        torch.from_numpy(found.target[order[:TRAIN]]),
    )
    (root / "digits.onnx").write_bytes(written(net).SerializeToString())
    return root


def call(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output


def top1(root: Path, model: list[object], *more: object) -> float:
    out = root / "found.json"
    call("evaluate", *model, "--data", root / "data", "--out", out, "--batch-size", 64, *more)
    return float(json.loads(out.read_text())["top1"])


@pytest.mark.parametrize(
    ("bits", "symmetric", "seeds", "least"),
    [(4, True, (0,), 0.95), (4, False, (0,), 0.96), (3, False, (0,), 0.90)],
)
def test_few_bits_are_enough_once_trained(
    root: Path, bits: int, symmetric: bool, seeds: tuple[int, ...], least: float
) -> None:
    model = ["onnx", "--weights", root / "digits.onnx", "--preset", "classifier"]
    given = ["--data", root / "data", "--backend", "pytorch-quantization", "--device", "cpu"]
    policy, recipe, table, qdq = (
        root / name for name in ("policy.yaml", "recipe.yaml", "table.json", "qdq.onnx")
    )
    policy.write_text(POLICY.format(bits=bits, symmetric=str(symmetric).lower()))
    call("calibrate", *model, *given, "--policy", policy, "--images", 100, "--out", table)
    call("quantize", *model, "--table", table, "--out", qdq)
    calibrated = top1(root, model, "--onnx", qdq)
    given += ["--policy", policy, "--table", table, "--recipe", recipe]
    for seed in seeds:
        recipe.write_text(RECIPE.replace("}", f", seed: {seed}}}"))
        out = root / f"{bits}{symmetric}{seed}"
        call("qat", *model, *given, "--out", out)
        trained = ["onnx", "--weights", out / "float.onnx"]
        found = top1(root, trained, "--onnx", out / "qdq.onnx")
        assert found >= least
        assert found > calibrated
    if bits == 3:
        assert top1(root, model) >= 0.975
        assert calibrated < least, "training has nothing to do"
