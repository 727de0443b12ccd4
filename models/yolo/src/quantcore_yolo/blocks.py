"""The modules of YOLOv5 and YOLOv7, each a function that writes its nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quantcore.errors import CheckpointError
from quantcore.showing import shown
from quantcore_yolo.graph import GraphBuilder, Value
from quantcore_yolo.rows import Row, parse_activation
from quantcore_yolo.weights import Weights


@dataclass(frozen=True)
class Context:
    """What every module needs in order to write itself.

    Attributes:
        origin: The file, for error messages.
        graph: Where nodes go.
        weights: Where weights come from.
        activations: Activation by module path, where the checkpoint's instances tell.
        default_activation: Of a Conv that does not say.
    """

    origin: str
    graph: GraphBuilder
    weights: Weights
    activations: Mapping[str, str]
    default_activation: str

    def activate(self, path: str, x: Value, argument: object = None) -> Value:
        """Writes the activation of module `path`.

        Args:
            path: Of the activation module, `<conv>.act`.
            x: Its input.
            argument: What the row says: a text such as `nn.LeakyReLU(0.1)`, True or None for
                the default, False for none.

        Raises:
            CheckpointError: It is not one of SiLU, LeakyReLU, ReLU, Identity.
        """
        text = self.default_activation
        if isinstance(argument, str):
            text = argument
        elif argument is False:
            text = "Identity"
        text = self.activations.get(path, text)
        name, parameter = parse_activation(text) or ("", 0.0)
        if name == "SiLU":
            return self.graph.silu(path, x)
        if name == "LeakyReLU":
            return self.graph.leaky_relu(path, x, parameter)
        if name == "ReLU":
            return self.graph.relu(path, x)
        if name == "Identity":
            return x
        raise CheckpointError(
            f"{self.origin}: {path} is {shown(text, 80)}; supported activations are SiLU, "
            "LeakyReLU, ReLU and Identity"
        )

    def conv(
        self,
        path: str,
        x: Value,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activation: object = None,
    ) -> Value:
        """Writes convolution and activation; padding is half the kernel unless given."""
        weight, bias = self.weights.conv(path)
        pad = weight.shape[2] // 2 if padding is None else padding
        y = self.graph.conv(f"{path}.conv", x, weight, bias, stride, pad, groups)
        return self.activate(f"{path}.act", y, activation)


Block = Callable[[Context, str, list[Value], Row], Value]


def _conv(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[out, kernel, stride, padding, groups, activation]`."""
    return context.conv(path, inputs[0], *_conv_arguments(row))


def _conv_arguments(row: Row) -> tuple[int, int | None, int, object]:
    """Stride, padding (None for half the kernel), groups and activation of a row."""
    padding = row.number(3, -1)
    activation = row.args[5] if len(row.args) > 5 else None
    return row.number(2, 1), None if padding < 0 else padding, row.number(4, 1), activation


def _focus(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """Space to depth, then a Conv; the order of the four slices is that of the weights."""
    corners = ((0, 0), (1, 0), (0, 1), (1, 1))
    slices = [
        context.graph.every_second(f"{path}.slice.{i}", inputs[0], *corner)
        for i, corner in enumerate(corners)
    ]
    joined = context.graph.concat(f"{path}.cat", slices)
    return context.conv(f"{path}.conv", joined, *_conv_arguments(row))


def _bottleneck(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[out, shortcut, groups]`."""
    return _residual(context, path, inputs[0], row.flag(1, True), row.number(2, 1))


def _residual(context: Context, path: str, x: Value, shortcut: bool, groups: int = 1) -> Value:
    """1x1 and 3x3 convolution, and the input added where the channels allow it."""
    y = context.conv(f"{path}.cv2", context.conv(f"{path}.cv1", x), groups=groups)
    if shortcut and y.channels == x.channels:
        return context.graph.add(f"{path}.add", x, y)
    return y


def _c3(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[out, shortcut]`: a chain of bottlenecks beside a 1x1 convolution."""
    x = inputs[0]
    y = context.conv(f"{path}.cv1", x)
    for i in range(row.repeats):
        y = _residual(context, f"{path}.m.{i}", y, row.flag(1, True), row.number(2, 1))
    joined = context.graph.concat(f"{path}.cat", [y, context.conv(f"{path}.cv2", x)])
    return context.conv(f"{path}.cv3", joined)


def _pyramid(context: Context, path: str, x: Value, kernels: tuple[int, ...]) -> Value:
    """The tensor joined with its max-poolings of several sizes at full resolution."""
    pooled = [
        context.graph.max_pool(f"{path}.m.{i}", x, k, 1, k // 2) for i, k in enumerate(kernels)
    ]
    return context.graph.concat(f"{path}.cat", [x, *pooled])


def _spp(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[out, kernels]`."""
    x = context.conv(f"{path}.cv1", inputs[0])
    return context.conv(f"{path}.cv2", _pyramid(context, path, x, row.numbers(1, (5, 9, 13))))


def _sppf(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[out, kernel]`: one pooling three times in a row."""
    kernel = row.number(1, 5)
    values = [context.conv(f"{path}.cv1", inputs[0])]
    for _ in range(3):
        values.append(context.graph.max_pool(f"{path}.m", values[-1], kernel, 1, kernel // 2))
    return context.conv(f"{path}.cv2", context.graph.concat(f"{path}.cat", values))


def _sppcspc(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[out, n, shortcut, groups, e, kernels]`: a pooling pyramid in a cross-stage block."""
    x = inputs[0]
    deep = x
    for name in ("cv1", "cv3", "cv4"):
        deep = context.conv(f"{path}.{name}", deep)
    deep = _pyramid(context, path, deep, row.numbers(5, (5, 9, 13)))
    deep = context.conv(f"{path}.cv6", context.conv(f"{path}.cv5", deep))
    joined = context.graph.concat(f"{path}.cat", [deep, context.conv(f"{path}.cv2", x)])
    return context.conv(f"{path}.cv7", joined)


def _rep_conv(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[out, 3, stride, padding, groups, activation]`; one convolution, whatever its form."""
    weight, bias = context.weights.rep_conv(path)
    stride, padding, groups, activation = _conv_arguments(row)
    y = context.graph.conv(
        f"{path}.rbr_reparam",
        inputs[0],
        weight,
        bias,
        stride,
        weight.shape[2] // 2 if padding is None else padding,
        groups,
    )
    return context.activate(f"{path}.act", y, activation)


def _mp(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[kernel]`: a max-pooling that halves the resolution."""
    kernel = row.number(0, 2)
    return context.graph.max_pool(f"{path}.m", inputs[0], kernel, kernel, 0)


def _sp(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[kernel, stride]`: a max-pooling that keeps the resolution."""
    kernel = row.number(0, 3)
    return context.graph.max_pool(f"{path}.m", inputs[0], kernel, row.number(1, 1), kernel // 2)


def _concat(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[1]`, the axis."""
    if row.number(0, 1) != 1:
        raise CheckpointError(
            f"{context.origin}: {path} joins along axis {shown(row.args[0])}, not 1"
        )
    return context.graph.concat(path, inputs)


def _upsample(context: Context, path: str, inputs: list[Value], row: Row) -> Value:
    """`[None, factor, nearest]`."""
    factor = row.number(1, 0)
    if factor < 1 or row.args[2:3] != ("nearest",):
        raise CheckpointError(
            f"{context.origin}: {path} upsamples by {shown(list(row.args))}; supported is a "
            "whole factor with mode nearest"
        )
    return context.graph.upsample(path, inputs[0], factor)


#: Every module that may stand in a layer list, beside the detection heads.
BLOCKS: Mapping[str, Block] = {
    "Bottleneck": _bottleneck,
    "C3": _c3,
    "Concat": _concat,
    "Conv": _conv,
    "Focus": _focus,
    "MP": _mp,
    "RepConv": _rep_conv,
    "SP": _sp,
    "SPP": _spp,
    "SPPCSPC": _sppcspc,
    "SPPF": _sppf,
    "Upsample": _upsample,
}

#: Modules that take the number of repeats themselves; others are chained.
REPEATING = frozenset({"C3"})

HEADS = frozenset({"Detect", "IDetect"})
