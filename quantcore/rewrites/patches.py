"""What the layers with weights read, as matrices: second moments and means of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.ir.edits import attributes, exposed, nodes_by_name
from quantcore.ir.model import Array, FloatModel, LayerInfo
from quantcore.qdq.placement import Plan, Site

Values = npt.NDArray[np.float64]


@dataclass
class Moments:
    """Of the inputs of one layer: what each output value is a product of weights and these.

    Attributes:
        second: For each group of channels K x K, the sum of products.
        first: For each group K, the sum.
        count: How many were added up.
    """

    second: Values
    first: Values
    count: int = 0

    def add(self, patches: Values) -> None:
        """Takes in groups x K x patches."""
        self.second += patches @ patches.transpose(0, 2, 1)
        self.first += patches.sum(axis=2)
        self.count += patches.shape[2]

    @property
    def centred(self) -> Values:
        """Groups x K x K, as `second` of the inputs less their means."""
        mean = self.mean
        return np.asarray(self.second - self.count * mean[:, :, None] * mean[:, None])

    @property
    def mean(self) -> Values:
        """Groups x K."""
        return np.asarray(self.first / max(self.count, 1))


def rounded_layers(model: FloatModel, plan: Plan) -> list[tuple[LayerInfo, Site]]:
    """The convolutions and matrix products whose weights are quantized, each weight once.

    Transposed convolutions are left out: their outputs read a part of the weights each.
    """
    sites = {site.tensor: site for site in plan.sites if site.role == "weight"}
    found: dict[str, tuple[LayerInfo, Site]] = {}
    for layer in model.layers:
        if layer.op in ("conv2d", "linear") and layer.weights and layer.weights[0] in sites:
            found.setdefault(layer.weights[0], (layer, sites[layer.weights[0]]))
    return list(found.values())


def moments(
    model: FloatModel,
    layers: Iterable[LayerInfo],
    batches: Iterable[Array],
    engine: EnginePlugin,
    patches: int,
) -> dict[str, Moments]:
    """The moments of what each layer reads in the float network.

    Args:
        model: The float model.
        layers: Convolutions and matrix products.
        batches: Network inputs, B x 3 x H x W.
        engine: Runs the float graph.
        patches: Of each layer and batch, at most so many; a seeded choice.
    """
    wanted = list(layers)
    nodes = nodes_by_name(model.proto.graph)
    graph = exposed(model.proto, (layer.inputs[0] for layer in wanted))
    found: dict[str, Moments] = {}
    random = np.random.default_rng(0)
    with engine.build(graph, EngineOptions()) as built:
        for batch in batches:
            values: Mapping[str, Array] = {model.input_name: batch, **built.infer(batch)}
            for layer in wanted:
                weight = model.initializers[layer.weights[0]]
                x = values[layer.inputs[0]]
                seen = _patches(nodes[layer.name], x, weight.shape, patches, random)
                if layer.name not in found:
                    groups, size = seen.shape[:2]
                    second, first = np.zeros((groups, size, size)), np.zeros((groups, size))
                    found[layer.name] = Moments(second, first)
                found[layer.name].add(seen)
    return found


def _patches(
    node: onnx.NodeProto,
    x: Array,
    shape: tuple[int, ...],
    count: int,
    random: np.random.Generator,
) -> Values:
    """Groups x K x patches: what some of a layer's outputs are made of."""
    if node.op_type != "Conv":
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        picks = random.permutation(len(rows))[:count]
        chosen: Values = rows[picks].T[None]
        return chosen
    given = attributes(node)
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    (down, across), (tall, wide) = given.get("strides", (1, 1)), given.get("dilations", (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height = (padded.shape[2] - tall * (shape[2] - 1) - 1) // down + 1
    width = (padded.shape[3] - wide * (shape[3] - 1) - 1) // across + 1
    places = random.permutation(len(x) * height * width)[:count]
    image, row, column = np.unravel_index(places, (len(x), height, width))
    taps = [
        padded[image, :, row * down + i * tall, column * across + j * wide] for i, j in _taps(shape)
    ]
    stacked = np.stack(taps, axis=2).astype(np.float64)  # patches x channels x taps
    groups = int(given.get("group", 1))
    found: Values = stacked.reshape(len(places), groups, -1).transpose(1, 2, 0)
    return found


def _taps(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield from np.ndindex(*shape[2:])
