"""Small networks of the kinds that people have, exported plainly by torch, in both backends."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import quantcore
from quantcore.analysis.agreement import check_parity
from quantcore.contracts.backend import SessionOptions
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.front import Front, front
from quantcore.contracts.registry import load_backend, load_engine
from quantcore.engines.tensorrt.options import TensorRtOptions
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.ir.model import FloatModel, Preprocessing
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq import verify
from quantcore.qdq.placement import plan

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
SHARED = Path(__file__).resolve().parents[2] / "shared"
SIDE = 64
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter


def conv(wide: int, deep: int, kernel: int = 3, stride: int = 1, act: Any = None) -> Any:
    return nn.Sequential(
        nn.Conv2d(wide, deep, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(deep),
        act or nn.SiLU(),
    )


class RepNCSPELAN(nn.Module):
    """YOLOv9's block, its down-sampling, and the detector's end with DFL."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2)
        self.first, self.last = conv(16, 16, 1), conv(32, 16, 1)
        self.inner = nn.ModuleList(nn.Sequential(conv(8, 8), conv(8, 8)) for _ in range(2))
        self.down = nn.ModuleList([conv(8, 8, 3, 2), conv(8, 8, 1)])
        self.boxes, self.scores = nn.Conv2d(16, 64, 1), nn.Conv2d(16, 5, 1)
        self.dfl = nn.Conv2d(16, 1, 1, bias=False)

    def adown(self, x: Any) -> Any:
        first, second = F.avg_pool2d(x, 2, 1, 0, False, True).chunk(2, 1)
        second = F.max_pool2d(second, 3, 2, 1)
        return torch.cat((self.down[0](first), self.down[1](second)), 1)

    def forward(self, x: Any) -> Any:
        parts = list(self.first(self.stem(x)).chunk(2, 1))
        for block in self.inner:
            parts.append(block(parts[-1]))
        x = self.adown(self.last(torch.cat(parts, 1)))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        batch, count = x.shape[0], x.shape[2] * x.shape[3]
        boxes = self.boxes(x).view(batch, 4, 16, count).transpose(2, 1).softmax(1)
        boxes = self.dfl(boxes).view(batch, 4, count)
        return torch.cat((boxes, self.scores(x).view(batch, 5, count).sigmoid()), 1)


class EndToEnd(nn.Module):
    """YOLOv10 and YOLO26: attention over positions, and the best rows without NMS."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), conv(32, 32, 3, 2))
        self.qkv, self.position, self.out = conv(32, 64, 1), conv(32, 32), conv(32, 32, 1)
        self.head = nn.Conv2d(32, 4 + 3, 1)

    def attention(self, x: Any) -> Any:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).view(b, 2, 32, h * w).split([8, 8, 16], dim=2)
        weights = ((q.transpose(-2, -1) @ k) * 8**-0.5).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).view(b, c, h, w)
        return x + self.out(mixed + self.position(v.reshape(b, c, h, w)))

    def forward(self, x: Any) -> Any:
        x = self.attention(self.stem(x))
        rows = self.head(x).flatten(2).permute(0, 2, 1)
        boxes, scores = rows.split([4, 3], dim=-1)
        scores = scores.sigmoid()
        best = scores.amax(-1).topk(10)[1].unsqueeze(-1)
        boxes = boxes.gather(1, best.repeat(1, 1, 4))
        scores = scores.gather(1, best.repeat(1, 1, 3)).flatten(1)
        values, index = scores.topk(10)
        boxes = boxes[torch.arange(len(x))[..., None], index // 3]
        return torch.cat([boxes, values[..., None], (index % 3)[..., None].float()], -1)


class Decoder(nn.Module):
    """RT-DETR: an encoder with attention, the best queries, a deformable decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 4, nn.ReLU()), conv(16, 32, 3, 4, nn.GELU()))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
        self.feed = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.score, self.box = nn.Linear(32, 5), nn.Linear(32, 4)
        self.offsets, self.weights = nn.Linear(32, 4 * 2 * 2), nn.Linear(32, 4 * 2)
        self.value = nn.Linear(32, 32)

    def deformable(self, query: Any, memory: Any, reference: Any, side: int) -> Any:
        b, count, _ = query.shape
        values = self.value(memory).view(b, side * side, 4, 8).permute(0, 2, 3, 1)
        values = values.reshape(b * 4, 8, side, side)
        shifts = self.offsets(query).view(b, count, 4, 2, 2)
        grid = reference[:, :, None, None, :2] + shifts / side
        grid = (2 * grid - 1).permute(0, 2, 1, 3, 4).flatten(0, 1)
        sampled = F.grid_sample(values, grid, "bilinear", "zeros", False)
        weights = self.weights(query).view(b, count, 4, 2).softmax(-1)
        weights = weights.permute(0, 2, 1, 3).reshape(b * 4, 1, count, 2)
        return (sampled * weights).sum(-1).view(b, 32, count).transpose(1, 2)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        side = x.shape[-1]
        memory = x.flatten(2).permute(0, 2, 1)
        mixed = self.attention(memory, memory, memory, need_weights=False)[0]
        memory = self.norms[0](memory + mixed)
        memory = self.norms[1](memory + self.feed(memory))
        best = self.score(memory).max(-1).values.topk(6, dim=1)[1].unsqueeze(-1)
        query = memory.gather(1, best.repeat(1, 1, 32))
        reference = self.box(query).sigmoid()
        query = self.norms[2](query + self.deformable(query, memory, reference, side))
        shifted = torch.log(reference.clamp(1e-5) / (1 - reference).clamp(1e-5))
        return torch.cat(((self.box(query) + shifted).sigmoid(), self.score(query).sigmoid()), -1)


class MobileNetV3(nn.Module):
    """Inverted residuals with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2, nn.Hardswish())
        self.wide = conv(16, 32, 1, 1, nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(32, 32, 5, 1, 2, groups=32), nn.BatchNorm2d(32))
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.thin = nn.Conv2d(32, 16, 1)
        self.classifier = nn.Sequential(nn.Linear(16, 32), nn.Hardswish(), nn.Linear(32, 10))

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        y = F.hardswish(self.depth(self.wide(x)))
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        x = x + self.thin(y * F.hardsigmoid(gate))
        return self.classifier(x.mean((2, 3)))


class ResNet(nn.Module):
    """A stem with a pool, a residual block, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 7, 2, nn.ReLU())
        self.one, self.two = conv(16, 32, 3, 2, nn.ReLU()), conv(32, 32, 3, 1, nn.Identity())
        self.short = conv(16, 32, 1, 2, nn.Identity())
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        x = F.relu(self.two(self.one(x)) + self.short(x))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


NETWORKS: dict[str, Callable[[], Any]] = {
    "yolov9": RepNCSPELAN,
    "yolo26": EndToEnd,
    "rt-detr": Decoder,
    "mobilenetv3": MobileNetV3,
    "resnet": ResNet,
}


def folded(path: Path, side: int) -> FloatModel:
    """A file with its constants folded, here by ONNX Runtime; the file is written anew."""
    import onnxruntime as ort

    proto = onnx.load(path)
    constants = {entry.name for entry in proto.graph.initializer}
    images = [entry for entry in proto.graph.input if entry.name not in constants]
    del proto.graph.input[:]  # old files list their weights there too
    proto.graph.input.extend(images)
    proto.ir_version = max(proto.ir_version, 8)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(path)
    graph = proto.SerializeToString()
    ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    proto = onnx.shape_inference.infer_shapes(onnx.load(path))
    for index, item in enumerate(proto.graph.node):
        item.name = f"{item.op_type}.{index}"
    return FloatModel("exported", proto, Preprocessing((side, side)), DecodedBoxes(), ("a",))


def exported(network: Any, path: Path, opset: int) -> FloatModel:
    """A network with random weights as torch's plain exporter writes it."""
    torch.manual_seed(0)
    net = network().eval()
    image = torch.rand(1, 3, SIDE, SIDE)
    given = {"input_names": ["images"], "opset_version": opset, "dynamo": False}
    torch.onnx.export(net, (image,), str(path), **given)
    return folded(path, SIDE)


@pytest.fixture(scope="module", params=[(n, o) for n in NETWORKS for o in (16, 17, 20)], ids=str)
def model(request: Any, tmp_path_factory: Any) -> FloatModel:
    name, opset = request.param
    return exported(NETWORKS[name], tmp_path_factory.mktemp("net") / "net.onnx", opset)


@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["pytorch-quantization", "paddle"])
def test_a_network_agrees_with_its_float_graph(
    model: FloatModel, backend: str, arithmetic: str
) -> None:
    check(model, backend, arithmetic)


@pytest.mark.parametrize("backend", ["pytorch-quantization", "paddle"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_goes_all_the_way(name: str, backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend.replace("-", "_"))
    model = exported(NETWORKS[name], tmp_path / "net.onnx", 17)
    noise = np.random.default_rng(0).random((2, 1, 3, SIDE, SIDE), np.float32)
    policy = CalibrationPolicy(images=2)
    table = quantcore.calibrate(model, list(noise), backend=backend, policy=policy).table
    graph = quantcore.quantize(model, table).proto
    for target in ("tensorrt", "openvino"):
        assert [v for v in verify.check(graph, target) if v.counts] == []
    with load_engine("onnxruntime").build(graph, EngineOptions()) as first:
        wanted = first.infer(noise[0])
    if find_spec("openvino"):
        with load_engine("openvino").build(graph, EngineOptions()) as second:
            found = second.infer(noise[0])
        assert {name: found[name].shape for name in wanted} == {
            name: heads.shape for name, heads in wanted.items()
        }
    if find_spec("tensorrt_rtx"):
        options = TensorRtOptions(target="SM86")
        plan_file = tmp_path / "net.plan"
        assert load_engine("tensorrt").build_ahead(graph, options, plan_file).path.stat().st_size


@pytest.mark.shared
@pytest.mark.parametrize("backend", ["pytorch-quantization", "paddle"])
@pytest.mark.parametrize(
    ("name", "side", "arithmetic"),
    [
        ("yolov8n", 640, "float32"),
        ("yolo26n", 640, "float64"),
        ("picodet_s_320", 320, "float32"),
        ("picodet_s_320", 320, "float64"),
    ],
)
def test_a_real_detector_agrees_with_its_float_graph(
    tmp_path: Path, name: str, side: int, backend: str, arithmetic: str
) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, the real checkpoints and images")
    path = tmp_path / "net.onnx"
    path.write_bytes((SHARED / "weights" / f"{name}.onnx").read_bytes())
    check(folded(path, side), backend, arithmetic)


def check(model: FloatModel, backend: str, arithmetic: str) -> None:
    """Holds the front of a model, open in a backend, to ONNX Runtime."""
    pytest.importorskip(backend.replace("-", "_"))
    plugin = load_backend(backend)
    cut = front(model, [plan(model, CalibrationPolicy())], plugin.capabilities.operators)
    with plugin.open(cut, SessionOptions(device="cpu", arithmetic=arithmetic)) as session:
        assert check_parity(session, load_engine("onnxruntime")) <= 1e-4


def test_the_best_rows_of_a_detector_are_picked_by_the_engines(tmp_path: Path) -> None:
    model = exported(EndToEnd, tmp_path / "net.onnx", 17)
    cut = front(model, [plan(model, CalibrationPolicy())])
    assert isinstance(cut, Front)
    picked = {"TopK", "GatherElements", "Mod"}
    assert picked.isdisjoint(item.op_type for item in cut.proto.graph.node)
    assert picked <= {item.op_type for item in cut.tail.graph.node}


def test_a_decoder_behind_the_best_queries_stays_whole(tmp_path: Path) -> None:
    model = exported(Decoder, tmp_path / "net.onnx", 17)
    assert front(model, [plan(model, CalibrationPolicy())]) is model
    assert np.any([item.op_type == "TopK" for item in model.proto.graph.node])
