"""A small float detector and images for it, made from a seed: what the checks run on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantcore.ir import Array, Decoding, FloatModel, Preprocessing

SIZE = 32


def small_detector(seed: int = 0) -> FloatModel:
    """Every kind of layer that matters to quantization, in a network of a few thousand weights.

    Strided, grouped and 1x1 convolutions, a transposed one, a residual Add, a tensor that several
    layers read, MaxPool, Resize, Concat, and three activations.
    """
    rng = np.random.default_rng(seed)
    constants: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        fan_in = float(np.prod(shape[1:]))
        # Channels of very different size, so that a wrong channel axis shows.
        size = np.exp(rng.uniform(-2, 2, (shape[0], *[1] * (len(shape) - 1))))
        values = rng.standard_normal(shape) * size / np.sqrt(fan_in)
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(name: str, source: str, out: int, into: int, kernel: int, **attributes: int) -> None:
        group, stride = attributes.get("group", 1), attributes.get("stride", 1)
        pad = kernel // 2
        nodes.append(
            helper.make_node(
                "Conv",
                [
                    source,
                    weight(f"{name}.weight", out, into // group, kernel, kernel),
                    weight(f"{name}.bias", out),
                ],
                [f"{name}.out"],
                name=name,
                kernel_shape=[kernel, kernel],
                strides=[stride, stride],
                pads=[pad] * 4,
                group=group,
            )
        )

    def simple(op: str, name: str, sources: list[str], **attributes: Any) -> None:
        nodes.append(helper.make_node(op, sources, [f"{name}.out"], name=name, **attributes))

    nodes: list[onnx.NodeProto] = []
    conv("stem", "images", 8, 3, 3, stride=2)
    simple("LeakyRelu", "stem.act", ["stem.out"], alpha=0.1)
    conv("left", "stem.act.out", 8, 8, 1)
    simple("Sigmoid", "left.sigmoid", ["left.out"])
    simple("Mul", "left.mul", ["left.out", "left.sigmoid.out"])
    conv("right", "stem.act.out", 8, 8, 3, group=4)
    simple("Add", "join", ["left.mul.out", "right.out"])
    simple("MaxPool", "pool", ["join.out"], kernel_shape=[2, 2], strides=[2, 2])
    conv("deep", "pool.out", 16, 8, 3)
    simple("Relu", "deep.act", ["deep.out"])
    nodes.append(
        helper.make_node(
            "ConvTranspose",
            ["deep.act.out", weight("up.weight", 16, 8, 2, 2)],
            ["up.out"],
            name="up",
            kernel_shape=[2, 2],
            strides=[2, 2],
        )
    )
    scales = np.array([1, 1, 2, 2], dtype=np.float32)
    constants.append(numpy_helper.from_array(scales, "resize.scales"))
    simple(
        "Resize",
        "resize",
        ["pool.out", "", "resize.scales"],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    simple("Concat", "cat", ["up.out", "resize.out", "left.mul.out"], axis=1)
    conv("head", "cat.out", 7, 24, 1)
    graph = helper.make_graph(
        nodes,
        "small_detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("head.out", TensorProto.FLOAT, ["batch", 7, 16, 16])],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    decoding = Decoding("anchors", (2,), (((4.0, 4.0),),))
    return FloatModel("small", proto, Preprocessing((SIZE, SIZE)), decoding, ("a", "b"))


def foreign_model() -> FloatModel:
    """The small detector with one node, `odd.one`, that no framework has ever heard of."""
    model = small_detector()
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
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
