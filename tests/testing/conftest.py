"""The fake backends, installed on a path of their own; a classifier that works."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
import stevedore._cache
from onnx import TensorProto, helper, numpy_helper
from stevedore import ExtensionManager

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import BACKENDS, load_engine
from quantcore.testing import scaffold

Install = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, here and in processes that start from here; forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    # stevedore keeps what it found by group, by sys.path, and under ~/.cache: none may see this.
    cache = stevedore._cache.Cache(str(tmp_path / "cache"))
    monkeypatch.setattr(stevedore._cache, "get_group_all", cache.get_group_all)
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    yield folder
    for name, module in list(sys.modules.items()):
        # Only what came from here: an installed plugin's modules stay what its tests imported.
        ours = str(getattr(module, "__file__", None)).startswith(str(folder))
        if ours or name.startswith("fake_backends"):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Registers `module:attribute` as a backend."""

    def make(name: str, target: str, requires: tuple[str, ...] = ("numpy",)) -> None:
        info = site / f"quantcore_backend_{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: quantcore-backend-{name}\nVersion: 1.0"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[{BACKENDS}]\n{name} = {target}\n")

    return make


@pytest.fixture
def honest(site: Path) -> Path:
    """The template's package as `quantcore_backend_honest`, for the fakes to build on."""
    for place, text in scaffold.render("honest").items():
        if place.startswith("src/"):
            path = site / place.removeprefix("src/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    importlib.invalidate_caches()
    return site


# A classifier that works: scikit-learn's digits, random filters and a fitted last layer.

SIDE = 16  # pixels: each of a digit's is four of an image's
TRAIN, VAL = 60, 120  # images that are written; the rest fit the last layer


def _network() -> onnx.ModelProto:
    """Two convolutions, pooling and a linear layer of zeros: 64 features, ten classes."""
    random = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w0", "b0"], ["c0"], "conv0", pads=[1] * 4),
        node("Relu", ["c0"], ["r0"], "relu0"),
        node("MaxPool", ["r0"], ["p0"], "pool0", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p0", "w1", "b1"], ["c1"], "conv1", pads=[1] * 4),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("MaxPool", ["r1"], ["p1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], "conv2", strides=[2, 2]),
        node("Relu", ["c2"], ["r2"], "relu2"),
        node("Flatten", ["r2"], ["features"], "flatten", axis=1),
        node("Gemm", ["features", "w3", "b3"], ["logits"], "linear"),
    ]

    def weight(*shape: int) -> np.ndarray:
        scale = (2 / np.prod(shape[1:])) ** 0.5
        return (random.standard_normal(shape) * scale).astype(np.float32)

    constants = {
        "w0": weight(16, 3, 3, 3),
        "b0": np.zeros(16, np.float32),
        "w1": weight(32, 16, 3, 3),
        "b1": np.zeros(32, np.float32),
        "w2": weight(64, 32, 2, 2),
        "b2": np.zeros(64, np.float32),
        "w3": np.zeros((256, 10), np.float32),
        "b3": np.zeros(10, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _fit(proto: onnx.ModelProto, images: np.ndarray, labels: np.ndarray) -> None:
    """Fits the last layer by least squares, in place."""
    trunk = onnx.ModelProto()
    trunk.CopyFrom(proto)
    del trunk.graph.output[:]
    trunk.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, None))
    pixels = np.repeat(images[:, None], 3, axis=1).astype(np.float32) / 255
    with load_engine("onnxruntime").build(trunk, EngineOptions(threads=1)) as engine:
        features = engine.infer(pixels)["features"].astype(np.float64)
    features = np.column_stack((features, np.ones(len(features))))
    wanted = 12 * np.eye(10)[labels] - 6
    normal = features.T @ features + 3.0 * np.eye(features.shape[1])
    found = np.linalg.solve(normal, features.T @ wanted).astype(np.float32)
    for initializer in proto.graph.initializer:
        if initializer.name == "w3":
            initializer.CopyFrom(numpy_helper.from_array(found[:-1], "w3"))
        if initializer.name == "b3":
            initializer.CopyFrom(numpy_helper.from_array(found[-1], "b3"))


def _write(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:04}.png"), image)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The classifier and its images: `weights`, `data`, and `model`, CLI arguments."""
    pytest.importorskip("quantcore_onnx")
    found = pytest.importorskip("sklearn.datasets").load_digits()
    images = np.kron(found.images, np.ones((SIDE // 8,) * 2)) * (255 / 16)
    images, labels = images.round().astype(np.uint8), found.target
    root = tmp_path_factory.mktemp("digits")
    _write(root / "data" / "train", images[:TRAIN], labels[:TRAIN])
    _write(root / "data" / "val", images[TRAIN : TRAIN + VAL], labels[TRAIN : TRAIN + VAL])
    proto = _network()
    _fit(proto, images[TRAIN + VAL :], labels[TRAIN + VAL :])
    weights = root / "digits.onnx"
    weights.write_bytes(proto.SerializeToString())
    model = ["onnx", "--weights", str(weights), "--preset", "classifier"]
    return SimpleNamespace(weights=weights, data=root / "data", model=model, root=root)
