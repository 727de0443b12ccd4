"""What the core's tests share: small graphs, a backend of single ONNX Runtime nodes, a detector."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcore.contracts.backend import (
    BackendSession,
    Capabilities,
    SessionOptions,
    Show,
    Simulation,
    Support,
)
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.nodes import GraphRunner, Node, Tap
from quantcore.contracts.observing import swaps, symmetric_range
from quantcore.contracts.registry import load_engine
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.executors import local
from quantcore.ir.model import Array, FloatModel, Preprocessing
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, Site, plan
from quantcore.qdq.scales import quantize, symmetric_scale
from quantcore.runtime import executor
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable, Provenance, TensorRange

from .networks import NETWORKS, Network

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _build(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    outputs: Sequence[str] = ("y",),
    size: int = 16,
    opset: int = 17,
) -> FloatModel:
    shape = ["batch", 3, size, size]
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    # Q/DQ graphs pass the full check only where shapes are known.
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True)
    return FloatModel("tiny", proto, Preprocessing((size, size)), DecodedBoxes(), ("a", "b"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real checkpoints and images; skips where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared (real checkpoints and images)")
    return SHARED


@pytest.fixture(scope="session")
def build() -> Callable[..., FloatModel]:
    """Makes a FloatModel of nodes and constants; the input is `images`, B x 3 x size x size."""
    return _build


@pytest.fixture(scope="session")
def networks(build: Callable[..., FloatModel]) -> dict[str, FloatModel]:
    """Networks like those that people have: `dfl`, `gfl`, `attention`, `end_to_end`."""
    return {name: draw(build) for name, draw in NETWORKS.items()}


@pytest.fixture
def drawing() -> Network:
    """A network to be drawn; `drawing.given(build)` is its model."""
    return Network()


@pytest.fixture(scope="session")
def net() -> FloatModel:
    """Convolutions that share an input, a transposed one, Resize, Concat, Add and two heads."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    node = helper.make_node
    nodes = [
        node("Conv", ["images", "w0", "b0"], ["t0"], "m.0.conv", pads=[1] * 4, strides=[2, 2]),
        node("LeakyRelu", ["t0"], ["t1"], "m.0.act", alpha=0.125),
        node("Conv", ["t1", "w1"], ["t2"], "m.1.conv"),
        node("Conv", ["t1", "w2", "b2"], ["t3"], "m.2.conv"),
        node("ConvTranspose", ["t3", "w3"], ["t4"], "m.3.up", strides=[2, 2]),
        node(
            "Resize",
            ["t2", "", "factors"],
            ["t5"],
            "m.4",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("Add", ["t1", "t2"], ["t6"], "m.5.add"),
        node("Concat", ["t4", "t5"], ["y"], "m.6", axis=1),
        node("Conv", ["t6", "w4", "b4"], ["z"], "m.7.conv"),
    ]
    constants = {
        "w0": weight(8, 3, 3, 3),
        "b0": weight(8),
        "w1": weight(8, 8, 1, 1),
        "w2": weight(6, 8, 1, 1),
        "b2": weight(6),
        "w3": weight(6, 5, 2, 2),
        "factors": np.array([1, 1, 2, 2], np.float32),
        "w4": weight(4, 8, 1, 1),
        "b4": weight(4),
    }
    return _build(nodes, constants, ("y", "z"))


def _run(proto: onnx.ModelProto, images: Array) -> dict[str, Array]:
    with load_engine("onnxruntime").build(proto, EngineOptions(threads=1, exact=True)) as engine:
        return engine.infer(images)


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[str, Array]]:
    """Runs a graph node by node in ONNX Runtime."""
    return _run


def _table(
    model: FloatModel, sites: Plan, backend: str = "by-hand", amax: Mapping[str, Any] | None = None
) -> CalibrationTable:
    """Exact weight ranges; activations 2.0 unless told otherwise."""
    ranges: dict[str, TensorRange] = {}
    for site in sites.sites:
        value: Any = (amax or {}).get(site.tensor, 2.0)
        if site.role == "weight" and site.tensor not in (amax or {}):
            weight = np.abs(model.initializers[site.tensor])
            rest = tuple(i for i in range(weight.ndim) if i != site.axis)
            value = weight.max(axis=rest) if site.axis is not None else weight.max()
        ranges[site.tensor] = symmetric_range(site, value)
    return CalibrationTable(ranges, Provenance(model.name, model.fingerprint, backend))


@pytest.fixture(scope="session")
def table() -> Callable[..., CalibrationTable]:
    """A table for a model and a plan."""
    return _table


@pytest.fixture(scope="session")
def planned() -> Callable[..., Plan]:
    """The plan of a model under a policy given as YAML keys."""

    def make(model: FloatModel, **policy: Any) -> Plan:
        return plan(model, CalibrationPolicy.from_dict({"placement": "minimal", **policy}))

    return make


class NodeSession(BackendSession):
    """A backend whose framework is one ONNX Runtime session per node."""

    def __init__(self, model: FloatModel, options: SessionOptions | None = None) -> None:
        known = Capabilities({"max": frozenset()}, {"max": frozenset()}, simulate=Support.SYMMETRIC)
        super().__init__("nodes", model, known, options or SessionOptions())
        self.seen = 0

    def runner(self, coded: Mapping[str, np.ndarray] | None = None) -> GraphRunner[Array]:
        opsets, ir_version = self.model.proto.opset_import, self.model.proto.ir_version
        protos = {node.name: node for node in self.model.proto.graph.node}

        def call(node: Node) -> Callable[..., Array]:
            proto = protos[node.name]
            names = list(dict.fromkeys(node.activations))
            info = helper.make_tensor_value_info
            constants = [
                numpy_helper.from_array((coded or {}).get(node.inputs[p], c), node.inputs[p])
                for p, c in node.constants.items()
            ]
            graph = helper.make_graph(
                [proto],
                node.name,
                [info(name, TensorProto.FLOAT, None) for name in names],
                [info(name, TensorProto.FLOAT, None) for name in node.outputs],
                constants,
            )
            import onnxruntime

            whole = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(
                whole.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )

            def apply(*values: Array) -> Any:
                feeds = dict(zip(node.activations, values, strict=True))
                found = session.run(None, feeds)
                return found[0] if len(found) == 1 else found

            return apply

        return GraphRunner(self.model, call)

    def _forward(self, batch: Array) -> Sequence[Array]:
        return self.runner().run(batch)

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        top = {site.tensor: 0.0 for site in sites}

        def watch(name: str) -> Callable[[Array], Array]:
            def note(x: Array) -> Array:
                top[name] = max(top[name], float(np.abs(x).max()))
                return x

            return note

        runner = self.runner()
        taps = {
            s.tensor: Tap(watch(s.tensor), frozenset(s.consumers))
            for s in sites
            if s.role == "activation"
        }
        for batch in batches:
            self.seen += 1
            runner.run(batch, taps)
        plan_ = Plan(tuple(sites), ())
        amax = {s.tensor: top[s.tensor] for s in sites if s.role == "activation"}
        return _table(self.model, plan_, amax=amax).tensors

    def _simulation(self, sites: Sequence[Site], ranges: Mapping[str, TensorRange]) -> Simulation:
        return NodeSimulation(self, sites, ranges)


class NodeSimulation(Simulation):
    """Codes what the nodes read."""

    def __init__(
        self, session: NodeSession, sites: Sequence[Site], ranges: Mapping[str, TensorRange]
    ) -> None:
        super().__init__(session)
        self._session = session
        self._coded: dict[str, np.ndarray] = {}
        self._taps: dict[str, Tap[Array]] = {}
        for site in sites:
            scale = symmetric_scale(ranges[site.tensor])

            def code(x: Array, scale: Array = scale, axis: int | None = site.axis) -> Array:
                shape = [1] * x.ndim
                if axis is not None:
                    shape[axis] = -1
                codes = quantize(x, scale, axis).astype(np.float32)
                found: Array = codes * scale.reshape(shape if axis is not None else ())
                return found

            if site.role == "weight":
                self._coded[site.tensor] = code(self.model.initializers[site.tensor])
            else:
                self._taps[site.tensor] = Tap(code, frozenset(site.consumers))

    def _infer(
        self, batch: Array, forced: Mapping[str, Array], computed: dict[str, Array]
    ) -> Sequence[Array]:
        swapped = swaps(forced, computed, lambda x: x, lambda x: x)
        return self._session.runner(self._coded).run(batch, self._taps, swapped)


class GivenSession(BackendSession):
    """A backend without a framework: its activations are what `values(tensor, batch)` gives."""

    def __init__(self, model: FloatModel, values: Callable[[str, Array], Array]) -> None:
        known = Capabilities(
            {},
            {},
            implementations=frozenset({"portable"}),
            arithmetics=frozenset({"float32", "float64"}),
        )
        super().__init__("given", model, known, SessionOptions(arithmetic="float64"))
        self._values = values

    def _forward(self, batch: Array) -> Sequence[Array]:
        raise NotImplementedError

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        raise NotImplementedError

    def _watch(self, batch: Array, show: Mapping[str, Show]) -> None:
        for tensor, see in show.items():
            see(self._values(tensor, batch))


@pytest.fixture(scope="session")
def given_session() -> type[GivenSession]:
    """The class of a backend session that shows what a test gives it."""
    return GivenSession


@pytest.fixture(scope="session")
def node_session() -> type[NodeSession]:
    """The class of a backend session that needs no framework."""
    return NodeSession


# A detector that works: bright red and blue squares on grey noise, found by averaging cells.

CELL = 16  # pixels of an object in the original images, which are twice the network's size


def _detector(gain: float = 40.0) -> onnx.ModelProto:
    """YOLOX-style, 64 x 64, BGR 0..255, one output 1 x 84 x 7 with two classes."""
    node = helper.make_node
    mean = np.zeros((4, 3, 8, 8), np.float32)
    for channel, (blue, green, red) in enumerate(((0, -1, 1), (1, -1, 0), (-1, 0, 1), (1, 0, -1))):
        mean[channel] = (np.array([blue, green, red], np.float32) / 64 / 255).reshape(3, 1, 1)
    head = np.zeros((7, 4, 1, 1), np.float32)
    head[4, :2, 0, 0] = gain
    head[5, 2, 0, 0] = head[6, 3, 0, 0] = gain
    bias = np.array([0.5, 0.5, 0, 0, -gain / 2, -gain / 2, -gain / 2], np.float32)
    off = np.array([0.5, 0.5, 0, 0, -50, -50, -50], np.float32)
    nodes = [
        node("Conv", ["images", "stem.w"], ["s"], "stem.conv", strides=[8, 8]),
        node("Relu", ["s"], ["p8"], "stem.act"),
        node("MaxPool", ["p8"], ["p16"], "pool.16", kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["p16"], ["p32"], "pool.32", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    for stride in (8, 16, 32):
        name = "head.bias" if stride == 8 else "head.off"
        nodes += [
            node("Conv", [f"p{stride}", "head.w", name], [f"h{stride}"], f"head.{stride}"),
            node("Reshape", [f"h{stride}", "rows"], [f"r{stride}"], f"rows.{stride}"),
        ]
    nodes += [
        node("Concat", ["r8", "r16", "r32"], ["all"], "levels", axis=2),
        node("Transpose", ["all"], ["last"], "last", perm=[0, 2, 1]),
        node("Slice", ["last", "zero", "four", "two"], ["boxes"], "boxes"),
        node("Slice", ["last", "four", "seven", "two"], ["raw"], "raw"),
        node("Sigmoid", ["raw"], ["scores"], "scores"),
        node("Concat", ["boxes", "scores"], ["predictions"], "predictions", axis=2),
    ]
    integers = {"rows": [0, 7, -1], "zero": [0], "two": [2], "four": [4], "seven": [7]}
    constants: dict[str, np.ndarray] = {n: np.array(v, np.int64) for n, v in integers.items()}
    constants |= {"stem.w": mean, "head.w": head, "head.bias": bias, "head.off": off}
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, ["batch", 84, 7])],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _scenes(root: Path, splits: Mapping[str, int]) -> Path:
    """A COCO folder of red and blue squares, 128 x 128 pixels each."""
    (root / "annotations").mkdir(parents=True)
    for number, (split, count) in enumerate(splits.items()):
        rng = np.random.default_rng(number)
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(1, count + 1):
            pixels = rng.integers(90, 140, (128, 128, 1)).repeat(3, axis=2).astype(np.uint8)
            for cell in rng.choice(64, 3, replace=False):
                x, y = int(cell % 8) * CELL, int(cell // 8) * CELL
                kind = int(rng.integers(2))
                pixels[y : y + CELL, x : x + CELL] = (20, 20, 235) if kind == 0 else (235, 20, 20)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i,
                        "category_id": kind + 1,
                        "bbox": [x, y, CELL, CELL],
                        "area": CELL * CELL,
                        "iscrowd": 0,
                    }
                )
            cv2.imwrite(str(root / split / f"{i}.png"), pixels)
            images.append({"id": i, "file_name": f"{i}.png", "width": 128, "height": 128})
        categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
        data = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


@pytest.fixture
def squares(tmp_path: Path) -> SimpleNamespace:
    """A working detector and data of its own: `weights`, `data`, and `model`, CLI arguments."""
    weights = tmp_path / "squares.onnx"
    weights.write_bytes(_detector().SerializeToString())
    data = _scenes(tmp_path / "data", {"train2017": 6, "val2017": 8})
    return _squares(weights, data)


@pytest.fixture(scope="session")
def shared_squares(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same, for tests that only read it."""
    root = tmp_path_factory.mktemp("squares")
    weights = root / "squares.onnx"
    weights.write_bytes(_detector().SerializeToString())
    return _squares(weights, _scenes(root / "data", {"train2017": 6, "val2017": 8}))


def _squares(weights: Path, data: Path) -> SimpleNamespace:
    model = ["onnx", "--weights", str(weights), "--preset", "yolox"]
    return SimpleNamespace(weights=weights, data=data, model=model, root=data.parent)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies run here: to start processes takes longer than what these tests let them do."""
    for module in (executor, local):
        monkeypatch.setattr(module, "LocalExecutor", lambda *_: executor.InProcess())


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., SimpleNamespace]:
    """Runs the command line in this process: `code`, `out`, `err`."""

    def call(*arguments: object) -> SimpleNamespace:
        from quantcore.commands.cli import main

        monkeypatch.setattr(sys, "argv", ["quantcore", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(code=end.value.code or 0, out=out, err=err)

    return call
