"""The backend-neutral description of a float network: its layers, its graph, what comes out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from quantcore.errors import ModelError
from quantcore.ir.decoding import Decoding
from quantcore.ir.edits import element_types
from quantcore.ir.projections import projections
from quantcore.ir.values import listed, number, positive, text, whole
from quantcore.showing import shown

Array = npt.NDArray[np.float32]

#: Neutral op name of each ONNX operator that quantization has something to say about.
NEUTRAL_OPS: Mapping[str, str] = {
    "Conv": "conv2d",
    "ConvTranspose": "conv_transpose2d",
    "Gemm": "linear",
    "MatMul": "linear",
    "Add": "add",
    "Mul": "mul",
    "Concat": "concat",
    "MaxPool": "max_pool",
    "AveragePool": "avg_pool",
    "GlobalAveragePool": "avg_pool",
    "Resize": "resize",
}

#: Ops that carry a constant weight; without one the node is not a layer of this op.
WEIGHTED_OPS = frozenset({"conv2d", "conv_transpose2d", "linear"})

#: A product of two activations, as attention has them: a MatMul or Gemm without a weight.
MATMUL = "matmul"

#: Every op that a layer can be of.
LAYER_OPS = frozenset({*NEUTRAL_OPS.values(), MATMUL})

#: What quantization is about; tensors of another type are never quantized.
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})


@dataclass(frozen=True)
class LayerInfo:
    """One quantizable layer, after the entries of Paddle's PTQRegistry.

    Attributes:
        name: Module path in the float model; the name of its node in the float ONNX graph.
        op: Neutral op, one of `LAYER_OPS`.
        inputs: Activation tensors that it reads, in the node's order.
        weights: Constant tensors that are quantized as weights (never the bias).
        outputs: Tensors that it writes.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


#: A number for each channel of the network input, in its order.
Channels = tuple[float, float, float]

#: Pixels of a network input: beyond, one image takes gigabytes on its way through a network.
_MOST_PIXELS = 1 << 24
#: Factors on pixel values that single precision still tells apart.
_LEAST_SCALE = 1e-9

#: How `Preprocessing` may resize.
INTERPOLATIONS = ("linear", "cubic", "nearest", "area", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network input: resizing, channel order, scaling.

    A pixel value v enters the network as (v * scale - mean) / std.

    Attributes:
        size: (height, width) of the network input in pixels.
        channels: `rgb` or `bgr`.
        scale: Factor on the 0..255 pixel values.
        placement: `center` (YOLOv5, YOLOv7) or `top_left` (YOLOX); of a letterboxed image.
        pad_value: Grey level of the letterbox border, 0..255.
        fit: `letterbox`, which keeps an image's proportions, `stretch`, which fills the input, or
            `crop`, which keeps the proportions and cuts off what goes beyond the input.
        mean: What is taken off each scaled channel, in the order of `channels`.
        std: What each channel is then divided by.
        interpolation: One of `INTERPOLATIONS`.
        crop: Side of the input over that of the image that it is cut from, of `fit: crop`.
    """

    size: tuple[int, int]
    channels: str = "rgb"
    scale: float = 1 / 255
    placement: str = "center"
    pad_value: int = 114
    fit: str = "letterbox"
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    interpolation: str = "linear"
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Raises ModelError for an unknown word, an empty size, or numbers that cannot be."""
        for name, known in _WORDS.items():
            if getattr(self, name) not in known:
                raise ModelError(
                    f"preprocessing: {name} must be {' or '.join(known)}, not "
                    f"{getattr(self, name)!r}"
                )
        if min(self.size) < 1:
            raise ModelError(f"preprocessing: image size must be positive, not {self.size}")
        if self.size[0] * self.size[1] > _MOST_PIXELS:
            raise ModelError(f"preprocessing: {self.size} pixels are more than {_MOST_PIXELS}")
        if not 0 <= self.pad_value <= 255:
            raise ModelError(f"preprocessing: pad_value must lie in 0..255, not {self.pad_value}")
        if not _LEAST_SCALE <= self.scale <= 1 / _LEAST_SCALE:
            raise ModelError(
                f"preprocessing: scale must lie in {_LEAST_SCALE:g}..{1 / _LEAST_SCALE:g}, not "
                f"{shown(self.scale)}"
            )
        numbers = (*self.mean, *self.std)
        if (len(self.mean), len(self.std)) != (3, 3) or not all(map(math.isfinite, numbers)):
            raise ModelError(
                f"preprocessing: mean and std must be three numbers each, not {self.mean} and "
                f"{self.std}"
            )
        if min(self.std) <= 0:
            raise ModelError(f"preprocessing: std must be positive, not {self.std}")
        if not 0 < self.crop <= 1:
            raise ModelError(f"preprocessing: crop must lie above 0, up to 1, not {self.crop}")

    def to_dict(self) -> dict[str, Any]:
        """What a description holds; what was added to the format only where it says something."""
        data = asdict(self)
        for name in ("fit", "mean", "std", "interpolation", "crop"):
            if data[name] == type(self).__dataclass_fields__[name].default:
                del data[name]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        """What a description holds.

        Raises:
            KeyError: Something is missing.
            TypeError: A value is of the wrong kind.
            ValueError: A value does not make sense.
            ModelError: The values do not fit each other.
        """
        height, width = (whole(side) for side in listed(data["size"]))
        added: dict[str, Any] = {n: text(data[n]) for n in ("fit", "interpolation") if n in data}
        for name in ("mean", "std"):
            if name in data:
                added[name] = tuple(number(value) for value in listed(data[name]))
        if "crop" in data:
            added["crop"] = positive(data["crop"])
        return cls(
            (height, width),
            text(data["channels"]),
            positive(data["scale"]),
            text(data["placement"]),
            whole(data["pad_value"]),
            **added,
        )


_WORDS = {
    "channels": ("rgb", "bgr"),
    "placement": ("center", "top_left"),
    "fit": ("letterbox", "stretch", "crop"),
    "interpolation": INTERPOLATIONS,
}


@dataclass(frozen=True)
class FloatGraph:
    """A float network as one ONNX graph: all that deciding what is quantized looks at.

    The graph holds no batch-norm, every node has a unique name (the layer's module path), and all
    constants are initializers.

    Attributes:
        name: As the user called it (`yolov7-tiny`, `onnx`, ...).
        proto: The float ONNX graph.
    """

    name: str
    proto: onnx.ModelProto

    def __post_init__(self) -> None:
        """Raises ModelError where the graph breaks one of the rules above."""
        graph = self.proto.graph
        if len(graph.input) != 1:
            names = ", ".join(i.name for i in graph.input) or "none"
            raise ModelError(f"{self.name}: the graph must have one input (images), has: {names}")
        seen: set[str] = set()
        for node in graph.node:
            if not node.name or node.name in seen:
                raise ModelError(
                    f"{self.name}: {node.op_type} node {node.name!r} needs a unique name"
                )
            seen.add(node.name)
            if node.op_type in ("BatchNormalization", "Constant"):
                raise ModelError(
                    f"{self.name}: fold {node.op_type} node {node.name!r} before quantizing"
                )

    def __reduce__(self) -> tuple[type[FloatGraph], tuple[object, ...]]:
        """Pickles what the model is, not what was cached of it."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @property
    def input_name(self) -> str:
        """Name of the image tensor, B x 3 x H x W."""
        return str(self.proto.graph.input[0].name)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the raw heads."""
        return tuple(o.name for o in self.proto.graph.output)

    @property
    def batch_size(self) -> int | None:
        """The batch size that the graph insists on; None where it is dynamic."""
        dim = self.proto.graph.input[0].type.tensor_type.shape.dim[0]
        return int(dim.dim_value) if dim.HasField("dim_value") else None

    @cached_property
    def initializers(self) -> Mapping[str, npt.NDArray[np.generic]]:
        """The constants of the graph by tensor name."""
        return {i.name: numpy_helper.to_array(i) for i in self.proto.graph.initializer}

    @cached_property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The quantizable layers in graph order."""
        constants = frozenset(i.name for i in self.proto.graph.initializer)
        found = (_layer_of(node, constants) for node in self.proto.graph.node)
        # Indices and shapes are added and concatenated too, and nothing of that is quantized.
        return tuple(layer for layer in found if layer and self.not_floats.isdisjoint(layer.inputs))

    @cached_property
    def not_floats(self) -> frozenset[str]:
        """Tensors that are known to hold indices, shapes or truth values."""
        types = element_types(self.proto)
        return frozenset(name for name, kind in types.items() if kind not in FLOATS)

    @cached_property
    def projections(self) -> frozenset[str]:
        """Nodes with weights that belong to a formula; they are never quantized."""
        return projections(self.proto.graph, self.initializers)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the graph and its constants; tables and Q/DQ graphs carry it."""
        return hashlib.sha256(self.proto.SerializeToString(deterministic=True)).hexdigest()


@dataclass(frozen=True)
class FloatModel(FloatGraph):
    """A float network with its surroundings; the only thing that a backend is given.

    The graph ends in the raw heads: decoding is described, not drawn.

    Attributes:
        preprocessing: From image to network input.
        decoding: From network outputs to boxes, or to classes.
        class_names: In class-index order.
    """

    preprocessing: Preprocessing
    decoding: Decoding
    class_names: tuple[str, ...]

    @cached_property
    def key(self) -> str:
        """SHA-256 of all that results depend on: the graph, and what is around it."""
        looks = (self.preprocessing.to_dict(), self.decoding.to_dict(), self.class_names)
        text = json.dumps((self.fingerprint, self.decoding.kind, *looks), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _layer_of(node: onnx.NodeProto, constants: frozenset[str]) -> LayerInfo | None:
    """The layer that a node stands for, or None where it is only glue."""
    op = NEUTRAL_OPS.get(node.op_type)
    if op is None:
        return None
    weights: tuple[str, ...] = ()
    # Sizes, scales and scalar operands are constants and nothing to quantize; what is left must
    # still be the op's own operation on activations.
    inputs = tuple(i for i in node.input if i and i not in constants)
    if op in WEIGHTED_OPS:
        if len(node.input) < 2 or node.input[0] in constants:
            return None
        if node.input[1] in constants:
            inputs, weights = inputs[:1], (node.input[1],)
        elif op == "linear":
            op, inputs = MATMUL, inputs[:2]
        else:
            return None
    elif op == "resize":
        inputs = inputs[:1]  # the others are where to sample, constant or not
    if not inputs or (op in ("add", "mul") and len(inputs) < 2):
        return None
    return LayerInfo(node.name, op, inputs, weights, tuple(node.output))


@dataclass(frozen=True)
class QdqModel:
    """A Q/DQ graph and what it was made from.

    Attributes:
        proto: The ONNX graph with QuantizeLinear and DequantizeLinear nodes.
        manifest: Fingerprints, counts, policy and versions; JSON-serialisable.
    """

    proto: onnx.ModelProto
    manifest: Mapping[str, object]
