"""A small float detector and images for it, made from a seed: what the checks run on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.ir.edits import copied
from quantcore.ir.model import Array, FloatModel, Preprocessing

SIZE = 32


class _Pen:
    """Draws nodes; each writes `<name>.out`."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, name: str, sources: list[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, sources, [f"{name}.out"], name=name, **attributes))

    def weight(self, name: str, *shape: int) -> str:
        fan_in = float(np.prod(shape[1:]))
        # Channels of very different size, so that a wrong channel axis shows.
        size = np.exp(self._rng.uniform(-2, 2, (shape[0], *[1] * (len(shape) - 1))))
        values = self._rng.standard_normal(shape) * size / np.sqrt(fan_in)
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(
        self, name: str, source: str, shape: tuple[int, int, int], stride: int = 1, group: int = 1
    ) -> None:
        out, into, kernel = shape
        weight = self.weight(f"{name}.weight", out, into // group, kernel, kernel)
        self.node(
            "Conv",
            name,
            [source, weight, self.weight(f"{name}.bias", out)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=group,
        )

    def double(self, name: str, source: str) -> None:
        scales = np.array([1, 1, 2, 2], dtype=np.float32)
        self.constants.append(numpy_helper.from_array(scales, f"{name}.scales"))
        self.node(
            "Resize",
            name,
            [source, "", f"{name}.scales"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )


def small_detector(seed: int = 0) -> FloatModel:
    """Every kind of layer that matters to quantization, in a network of a few thousand weights.

    Strided, grouped and 1x1 convolutions, a transposed one, a residual Add, a tensor that several
    layers read, MaxPool, Resize, Concat, and three activations.
    """
    pen = _Pen(seed)
    pen.conv("stem", "images", (8, 3, 3), stride=2)
    pen.node("LeakyRelu", "stem.act", ["stem.out"], alpha=0.1)
    pen.conv("left", "stem.act.out", (8, 8, 1))
    pen.node("Sigmoid", "left.sigmoid", ["left.out"])
    pen.node("Mul", "left.mul", ["left.out", "left.sigmoid.out"])
    pen.conv("right", "stem.act.out", (8, 8, 3), group=4)
    pen.node("Add", "join", ["left.mul.out", "right.out"])
    pen.node("MaxPool", "pool", ["join.out"], kernel_shape=[2, 2], strides=[2, 2])
    pen.conv("deep", "pool.out", (16, 8, 3))
    pen.node("Relu", "deep.act", ["deep.out"])
    up = ["deep.act.out", pen.weight("up.weight", 16, 8, 2, 2)]
    pen.node("ConvTranspose", "up", up, kernel_shape=[2, 2], strides=[2, 2])
    pen.double("resize", "pool.out")
    pen.node("Concat", "cat", ["up.out", "resize.out", "left.mul.out"], axis=1)
    pen.conv("head", "cat.out", (7, 24, 1))
    graph = helper.make_graph(
        pen.nodes,
        "small_detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("head.out", TensorProto.FLOAT, ["batch", 7, 16, 16])],
        pen.constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    decoding = AnchorDecoding((2,), (((4.0, 4.0),),))
    return FloatModel("small", proto, Preprocessing((SIZE, SIZE)), decoding, ("a", "b"))


def plain_network(seed: int = 0) -> FloatModel:
    """Convolutions, a residual Add, an activation with a gate: what training is tried on."""
    pen = _Pen(seed)
    pen.conv("stem", "images", (6, 3, 3), stride=4)
    pen.node("LeakyRelu", "stem.act", ["stem.out"], alpha=0.1)
    pen.conv("left", "stem.act.out", (6, 6, 1))
    pen.node("Sigmoid", "left.sigmoid", ["left.out"])
    pen.node("Mul", "left.mul", ["left.out", "left.sigmoid.out"])
    pen.conv("right", "stem.act.out", (6, 6, 3))
    pen.node("Add", "join", ["left.mul.out", "right.out"])
    pen.conv("head", "join.out", (7, 6, 1))
    side = SIZE // 4
    graph = helper.make_graph(
        pen.nodes,
        "plain_network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("head.out", TensorProto.FLOAT, ["batch", 7, side, side])],
        pen.constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    decoding = AnchorDecoding((4,), (((8.0, 8.0),),))
    return FloatModel("plain", proto, Preprocessing((SIZE, SIZE)), decoding, ("a", "b"))


def foreign_model() -> FloatModel:
    """The small detector with one node, `odd.one`, that no framework has ever heard of."""
    model = small_detector()
    proto = copied(model.proto)
    odd = helper.make_node(
        "NoSuchOperator", ["odd.in"], ["head.out"], name="odd.one", domain="nowhere"
    )
    proto.graph.node[-1].output[0] = "odd.in"
    proto.graph.node.append(odd)
    proto.opset_import.append(helper.make_opsetid("nowhere", 1))
    return FloatModel("foreign", proto, model.preprocessing, model.decoding, model.class_names)


def images(count: int, seed: int = 1) -> Array:
    """Seeded network inputs of growing contrast, count x 3 x 32 x 32, 0..1."""
    rng = np.random.default_rng(seed)
    pixels = rng.random((count, 3, SIZE, SIZE), dtype=np.float32)
    contrast = np.linspace(0.5, 1, count, dtype=np.float32).reshape(-1, 1, 1, 1)
    batch: Array = pixels * contrast
    return batch


class Stream:
    """Batches of `images` that can be iterated again and count what was read.

    Made one image at a time, so that a stream of many holds no more memory than one of few.
    """

    def __init__(self, count: int, batch_size: int = 4) -> None:
        self.count = count
        self.batch_size = batch_size
        self.read = 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Array]:
        for start in range(0, self.count, self.batch_size):
            self.read += 1
            stop = min(start + self.batch_size, self.count)
            yield np.concatenate([images(1, seed=7 + i) for i in range(start, stop)])
