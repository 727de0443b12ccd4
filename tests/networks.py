"""Small networks like those that people have: C2f with a DFL head, GFL, attention, end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper


class Network:
    """Nodes and constants; every layer is named after the tensor that it writes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(0)

    def add(self, op: str, inputs: list[Any], *outputs: str, **attributes: Any) -> str:
        """A node; arrays among its inputs become constants."""
        names = []
        for place, value in enumerate(inputs):
            if not isinstance(value, str):
                self.constants[f"{outputs[0]}.{place}"] = np.asarray(value)
                value = f"{outputs[0]}.{place}"
            names.append(value)
        self.nodes.append(helper.make_node(op, names, list(outputs), outputs[0], **attributes))
        return outputs[0]

    def values(self, *shape: int) -> np.ndarray:
        spread = 1.5 / np.sqrt(np.prod(shape[1:]))
        return (self._rng.standard_normal(shape) * spread).astype(np.float32)

    def conv(self, x: str, name: str, inside: int, out: int, size: int = 1, **how: Any) -> str:
        weight = self.values(out, inside // how.get("group", 1), size, size)
        bias = (self._rng.standard_normal(out) * 0.1).astype(np.float32)
        return self.add("Conv", [x, weight, bias], name, pads=[size // 2] * 4, **how)

    def silu(self, x: str, name: str, inside: int, out: int, size: int = 1, **how: Any) -> str:
        self.conv(x, name, inside, out, size, **how)
        self.add("Sigmoid", [name], f"{name}.sigmoid")
        return self.add("Mul", [name, f"{name}.sigmoid"], f"{name}.act")

    def c2f(self, x: str, name: str, inside: int, out: int) -> str:
        """Ultralytics' block: halves, of which one goes through a residual, all joined again."""
        half = out // 2
        cv1 = self.silu(x, f"{name}.cv1", inside, out)
        parts = [f"{name}.left", f"{name}.right"]
        self.add("Split", [cv1, [half, half]], *parts, axis=1)
        inner = self.silu(parts[1], f"{name}.m.cv1", half, half, 3)
        inner = self.silu(inner, f"{name}.m.cv2", half, half, 3)
        added = self.add("Add", [parts[1], inner], f"{name}.m.add")
        joined = self.add("Concat", [*parts, added], f"{name}.cat", axis=1)
        return self.silu(joined, f"{name}.cv2", 3 * half, out)

    def pyramid(self) -> list[str]:
        """Two scales of 32 channels."""
        stem = self.silu("images", "stem", 3, 16, 3, strides=[2, 2])
        first = self.c2f(stem, "c2f", 16, 32)
        return [first, self.silu(first, "down", 32, 32, 3, strides=[2, 2])]

    def given(self, model: Any, outputs: tuple[str, ...] = ("y",)) -> Any:
        return model(self.nodes, self.constants, outputs, size=32, opset=18)


def _boxes(net: Network, distances: str, count: int) -> str:
    """Corners from distances to the four sides, in pixels."""
    near = net.add("Slice", [distances, [0], [2], [1]], "near")
    far = net.add("Slice", [distances, [2], [4], [1]], "far")
    grid = np.arange(2 * count, dtype=np.float32).reshape(1, 2, count) % 16 + 0.5
    lower = net.add("Sub", [grid, near], "lower")
    upper = net.add("Add", [far, grid], "upper")
    corners = net.add("Concat", [lower, upper], "corners", axis=1)
    return net.add("Mul", [corners, np.float32(2)], "boxes")


def dfl(build: Any) -> Any:
    """YOLOv8 in small: y is 1 x 7 x 320, boxes decoded in the graph."""
    net = Network()
    logits: dict[str, list[str]] = {"box": [], "cls": []}
    for number, scale in enumerate(net.pyramid()):
        for kind, out in (("box", 64), ("cls", 3)):
            inner = net.silu(scale, f"{kind}.{number}.cv1", 32, 32, 3)
            net.conv(inner, f"{kind}.{number}.last", 32, out)
            flat = net.add("Reshape", [f"{kind}.{number}.last", [0, out, -1]], f"{kind}.{number}")
            logits[kind].append(flat)
    box, cls = (net.add("Concat", names, kind, axis=2) for kind, names in logits.items())
    net.add("Reshape", [box, [0, 4, 16, -1]], "dfl.in")
    net.add("Transpose", ["dfl.in"], "dfl.turned", perm=[0, 2, 1, 3])
    net.add("Softmax", ["dfl.turned"], "dfl.softmax", axis=1)
    steps = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
    net.add("Conv", ["dfl.softmax", steps], "dfl.conv")
    net.add("Reshape", ["dfl.conv", [0, 4, -1]], "dfl")
    boxes = _boxes(net, "dfl", 320)
    scores = net.add("Sigmoid", [cls], "scores")
    net.add("Concat", [boxes, scores], "y", axis=1)
    return net.given(build)


def gfl(build: Any) -> Any:
    """PicoDet in small: depthwise, HardSwish, squeeze and excitation, four outputs."""
    net = Network()
    net.conv("images", "stem", 3, 16, 3, strides=[2, 2])
    x = net.add("HardSwish", ["stem"], "stem.act")
    net.conv(x, "dw", 16, 16, 3, group=16)
    x = net.add("HardSwish", ["dw"], "dw.act")
    net.add("GlobalAveragePool", [x], "se.pool")
    net.add("Relu", [net.conv("se.pool", "se.cv1", 16, 4)], "se.relu")
    net.add("HardSigmoid", [net.conv("se.relu", "se.cv2", 4, 16)], "se.gate")
    x = net.add("Mul", [x, "se.gate"], "se")
    net.add("HardSwish", [net.conv(x, "pw", 16, 32)], "pw.act")
    net.add("MaxPool", ["pw.act"], "small", kernel_shape=[2, 2], strides=[2, 2])
    outputs = []
    for number, scale in enumerate(("pw.act", "small")):
        name = f"head.{number}"
        net.add("HardSwish", [net.conv(scale, f"{name}.dw", 32, 32, 3, group=32)], f"{name}.act")
        net.conv(f"{name}.act", f"{name}.last", 32, 35)
        net.add("Split", [f"{name}.last", [3, 32]], f"{name}.cls", f"{name}.reg", axis=1)
        net.add("Sigmoid", [f"{name}.cls"], f"{name}.sigmoid")
        for part, last in (("sigmoid", 3), ("reg", 32)):
            net.add("Reshape", [f"{name}.{part}", [0, last, -1]], f"{name}.{part}.flat")
            turned = f"{name}.{part}.out"
            outputs.append(net.add("Transpose", [f"{name}.{part}.flat"], turned, perm=[0, 2, 1]))
    return net.given(build, tuple(outputs))


def attention(build: Any) -> Any:
    """An encoder layer of RT-DETR in small, between a convolution and a linear head."""
    net = Network()

    def linear(x: str, name: str, inside: int, out: int) -> str:
        net.add("MatMul", [x, net.values(inside, out)], name)
        return net.add("Add", [name, net.values(out)], f"{name}.biased")

    def norm(x: str, name: str) -> str:
        ones = np.ones(32, np.float32)
        return net.add("LayerNormalization", [x, ones, 0 * ones], name, axis=-1)

    def heads(x: str, name: str, perm: list[int]) -> str:
        net.add("Reshape", [x, [0, 64, 2, 16]], f"{name}.heads")
        return net.add("Transpose", [f"{name}.heads"], f"{name}.turned", perm=perm)

    stem = net.silu("images", "stem", 3, 32, 3, strides=[4, 4])
    net.add("Reshape", [stem, [0, 32, -1]], "flat")
    tokens = net.add("Transpose", ["flat"], "tokens", perm=[0, 2, 1])
    q = heads(linear(tokens, "q", 32, 32), "q", [0, 2, 1, 3])
    k = heads(linear(tokens, "k", 32, 32), "k", [0, 2, 3, 1])
    v = heads(linear(tokens, "v", 32, 32), "v", [0, 2, 1, 3])
    net.add("MatMul", [q, k], "scores")
    net.add("Mul", ["scores", np.float32(0.25)], "scaled")
    net.add("Softmax", ["scaled"], "weights", axis=-1)
    net.add("MatMul", ["weights", v], "mixed")
    net.add("Transpose", ["mixed"], "back", perm=[0, 2, 1, 3])
    net.add("Reshape", ["back", [0, 64, 32]], "merged")
    net.add("Add", [tokens, linear("merged", "proj", 32, 32)], "added")
    x = norm("added", "norm")
    net.add("Erf", [linear(x, "fc1", 32, 64)], "erf")
    net.add("Mul", ["fc1.biased", "erf"], "gated")
    net.add("Add", [x, linear("gated", "fc2", 64, 32)], "added2")
    head = linear(norm("added2", "norm2"), "head", 32, 5)
    net.add("Sigmoid", [head], "y")
    return net.given(build)


def end_to_end(build: Any) -> Any:
    """YOLO26 in small: y is 1 x 20 x 6, chosen by TopK, without NMS."""
    net = Network()
    flat: dict[str, list[str]] = {"box": [], "cls": []}
    for number, scale in enumerate(net.pyramid()):
        for kind, out in (("box", 4), ("cls", 3)):
            inner = net.silu(scale, f"{kind}.{number}.cv1", 32, 32, 3)
            net.conv(inner, f"{kind}.{number}.last", 32, out)
            name = net.add("Reshape", [f"{kind}.{number}.last", [0, out, -1]], f"{kind}.{number}")
            flat[kind].append(name)
    box, cls = (net.add("Concat", names, kind, axis=2) for kind, names in flat.items())
    scores = net.add("Sigmoid", [cls], "sigmoid")
    net.add("Concat", [_boxes(net, box, 320), scores], "all", axis=1)
    net.add("Transpose", ["all"], "rows", perm=[0, 2, 1])
    net.add("Split", ["rows", [4, 3]], "row.boxes", "row.scores", axis=2)
    net.add("ReduceMax", ["row.scores", [2]], "best", keepdims=0)
    net.add("TopK", ["best", [20]], "best.values", "best.index")
    net.add("Unsqueeze", ["best.index", [2]], "index")
    net.add("Tile", ["index", [1, 1, 3]], "index.scores")
    net.add("GatherElements", ["row.scores", "index.scores"], "kept", axis=1)
    net.add("Flatten", ["kept"], "kept.flat")
    net.add("TopK", ["kept.flat", [20]], "top", "top.index")
    net.add("Div", ["top.index", np.int64(3)], "row")
    net.add("Mod", ["top.index", np.int64(3)], "class")
    net.add("Add", ["row", "class"], "sum")  # whole numbers are added, and nothing is quantized
    net.add("Sub", ["sum", "class"], "row.again")
    net.add("GatherElements", ["best.index", "row.again"], "place", axis=1)
    net.add("Unsqueeze", ["place", [2]], "place.column")
    net.add("Tile", ["place.column", [1, 1, 4]], "place.boxes")
    net.add("GatherElements", ["row.boxes", "place.boxes"], "top.boxes", axis=1)
    net.add("Unsqueeze", ["top", [2]], "top.column")
    net.add("Unsqueeze", ["class", [2]], "class.column")
    net.add("Cast", ["class.column"], "class.float", to=onnx.TensorProto.FLOAT)
    net.add("Concat", ["top.boxes", "top.column", "class.float"], "y", axis=2)
    return net.given(build)


NETWORKS = {f.__name__: f for f in (dfl, gfl, attention, end_to_end)}
