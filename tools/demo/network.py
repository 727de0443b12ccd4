"""A narrow YOLOv7-tiny: its row table and a PyTorch module that runs the table.

The rows follow the official table form, ``[from, repeats, module, args]``, and the parameter names
follow the official state dict, so that any reader of such checkpoints understands the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

STRIDES = (8, 16, 32)
BN_EPS = 1e-3
BN_MOMENTUM = 0.03
WIDTH_MULTIPLE = 0.375
_ACTIVATION = "nn.LeakyReLU(0.1)"

Row = list[Any]


class RowBuilder:
    """Collects the rows of a network table.

    Attributes:
        rows: The rows appended so far.
    """

    def __init__(self) -> None:
        """Start an empty table."""
        self.rows: list[Row] = []

    def add(self, source: int | list[int], module: str, args: list[Any]) -> int:
        """Append a row and return its index."""
        self.rows.append([source, 1, module, args])
        return len(self.rows) - 1

    def conv(self, channels: int, kernel: int, stride: int = 1, source: int = -1) -> int:
        """Append a convolution with batch normalization and activation."""
        return self.add(source, "Conv", [channels, kernel, stride, "None", 1, _ACTIVATION])

    def concat(self, *sources: int) -> int:
        """Append a concatenation along the channels."""
        return self.add(list(sources), "Concat", [1])

    def elan(self, hidden: int, out: int) -> int:
        """Append an aggregation block: two branches, one of them deepened twice."""
        self.conv(hidden, 1)
        self.conv(hidden, 1, source=-2)
        self.conv(hidden, 3)
        self.conv(hidden, 3)
        self.concat(-1, -2, -3, -4)
        return self.conv(out, 1)

    def pyramid_pool(self, hidden: int) -> int:
        """Append the spatial pyramid pooling block that ends the deepest level."""
        self.conv(hidden, 1)
        self.conv(hidden, 1, source=-2)
        for step, kernel in enumerate((5, 9, 13)):
            self.add(-1 - step, "SP", [kernel])
        self.concat(-1, -2, -3, -4)
        self.conv(hidden, 1)
        self.concat(-1, -7)
        return self.conv(hidden, 1)

    def merge_up(self, channels: int, lateral: int) -> None:
        """Append the upsampling of the current map and its union with a finer one."""
        self.conv(channels, 1)
        self.add(-1, "nn.Upsample", ["None", 2, "nearest"])
        self.conv(channels, 1, source=lateral)
        self.concat(-1, -2)


def build_table(classes: int, anchors: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Generate the network table.

    Args:
        classes: Number of object classes.
        anchors: Anchors in pixels, six numbers per level from fine to coarse.

    Returns:
        A dictionary in the official form, with channels before the width scaling.
    """
    body = RowBuilder()
    body.conv(32, 3, 2)
    body.conv(64, 3, 2)
    levels = [body.elan(32, 64)]
    for hidden in (64, 128, 256):
        body.add(-1, "MP", [])
        levels.append(body.elan(hidden, 2 * hidden))
    split = len(body.rows)
    deep = body.pyramid_pool(256)
    body.merge_up(128, levels[2])
    middle = body.elan(64, 128)
    body.merge_up(64, levels[1])
    outputs = [body.elan(32, 64)]
    for hidden, lateral in ((64, middle), (128, deep)):
        body.conv(2 * hidden, 3, 2)
        body.concat(-1, lateral)
        outputs.append(body.elan(hidden, 2 * hidden))
    widths = (128, 256, 512)
    heads = [body.conv(width, 3, source=row) for width, row in zip(widths, outputs, strict=True)]
    body.add(heads, "IDetect", ["nc", "anchors"])
    return {
        "nc": classes,
        "depth_multiple": 1.0,
        "width_multiple": WIDTH_MULTIPLE,
        "anchors": [list(level) for level in anchors],
        "backbone": body.rows[:split],
        "head": body.rows[split:],
    }


class Conv(nn.Module):
    """Convolution, batch normalization and leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        """Create the layers; the batch normalization makes a bias superfluous."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers."""
        return self.act(self.bn(self.conv(x)))


class Concat(nn.Module):
    """Concatenation along the channels."""

    def forward(self, x: list[Tensor]) -> Tensor:
        """Join the maps."""
        return torch.cat(x, dim=1)


class Implicit(nn.Module):
    """A learned value per channel."""

    def __init__(self, channels: int, centre: float) -> None:
        """Start all channels close to a value."""
        super().__init__()
        self.implicit = nn.Parameter(centre + 0.02 * torch.randn(1, channels, 1, 1))


class IDetect(nn.Module):
    """Detection head with a learned offset before and a learned factor after each projection."""

    anchors: Tensor

    def __init__(
        self, classes: int, anchors: Sequence[Sequence[int]], channels: Sequence[int]
    ) -> None:
        """Create one projection per level.

        Args:
            classes: Number of object classes.
            anchors: Anchors in pixels, per level.
            channels: Input channels, per level.
        """
        super().__init__()
        pixels = torch.tensor(anchors, dtype=torch.float32).view(len(anchors), -1, 2)
        outputs = pixels.shape[1] * (5 + classes)
        self.classes = classes
        self.register_buffer("anchors", pixels / torch.tensor(STRIDES).view(-1, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in channels)
        self.ia = nn.ModuleList(Implicit(width, 0.0) for width in channels)
        self.im = nn.ModuleList(Implicit(outputs, 1.0) for _ in channels)
        self._start_rare()

    def _start_rare(self) -> None:
        """Make objects improbable at first, or empty cells would dominate the first steps."""
        for layer, stride in zip(self.m, STRIDES, strict=True):
            bias = layer.bias.data.view(len(self.anchors[0]), -1)
            bias.zero_()
            bias[:, 4] = math.log(5 / (320 / stride) ** 2)
            bias[:, 5:] = -math.log(self.classes - 1)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """Return the raw maps ``(batch, anchors * (5 + classes), height, width)``."""
        return [
            project(value + add.implicit) * factor.implicit
            for value, project, add, factor in zip(x, self.m, self.ia, self.im, strict=True)
        ]


def scaled(channels: int, width: float) -> int:
    """Scale a channel count and round it up to a multiple of eight."""
    return math.ceil(channels * width / 8) * 8


class Yolo(nn.Module):
    """A network that is described by a table of rows."""

    def __init__(self, table: dict[str, Any]) -> None:
        """Create one module per row.

        Args:
            table: Network table from ``build_table``.
        """
        super().__init__()
        self.sources: list[int | list[int]] = []
        modules: list[nn.Module] = []
        widths: list[int] = []
        for source, _, name, args in table["backbone"] + table["head"]:
            picked = source if isinstance(source, list) else [source]
            inputs = [widths[index] if widths else 3 for index in picked]
            module, outputs = _make_row(name, args, inputs, table)
            modules.append(module)
            widths.append(outputs)
            self.sources.append(source)
        self.model = nn.ModuleList(modules)

    @property
    def head(self) -> IDetect:
        """The detection head."""
        last = self.model[-1]
        assert isinstance(last, IDetect)
        return last

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the raw maps of the three levels for images in 0 to 1."""
        outputs: list[Any] = []
        for module, source in zip(self.model, self.sources, strict=True):
            if isinstance(source, list):
                value: Any = [outputs[index] for index in source]
            else:
                value = outputs[source] if outputs else x
            outputs.append(module(value))
        result: list[Tensor] = outputs[-1]
        return result


def _make_row(
    name: str, args: list[Any], inputs: list[int], table: dict[str, Any]
) -> tuple[nn.Module, int]:
    """Create the module of a row.

    Args:
        name: Module name in the table.
        args: Module arguments in the table.
        inputs: Channels of the row's inputs.
        table: The whole table.

    Returns:
        The module and its number of output channels.
    """
    if name == "Conv":
        outputs = scaled(args[0], table["width_multiple"])
        return Conv(inputs[0], outputs, args[1], args[2]), outputs
    if name == "MP":
        return nn.MaxPool2d(2, 2), inputs[0]
    if name == "SP":
        return nn.MaxPool2d(args[0], 1, args[0] // 2), inputs[0]
    if name == "nn.Upsample":
        return nn.Upsample(scale_factor=args[1], mode=args[2]), inputs[0]
    if name == "Concat":
        return Concat(), sum(inputs)
    if name == "IDetect":
        return IDetect(table["nc"], table["anchors"], inputs), 0
    raise ValueError(f"the table names an unknown module: {name}")


def decode(maps: list[Tensor], anchors: Tensor, classes: int) -> Tensor:
    """Turn raw maps into boxes and probabilities.

    Args:
        maps: Raw maps of the three levels.
        anchors: Anchors in grid units, ``(levels, anchors, 2)``.
        classes: Number of object classes.

    Returns:
        ``(batch, cells, 5 + classes)`` with centre, width and height in pixels, then the
        probabilities of an object and of each class.
    """
    parts = []
    for raw, level_anchors, stride in zip(maps, anchors, STRIDES, strict=True):
        batch, _, height, width = raw.shape
        count = len(level_anchors)
        value = raw.view(batch, count, 5 + classes, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([xs, ys], dim=-1).to(raw)
        centre = (2 * value[..., :2] - 0.5 + grid) * stride
        size = (2 * value[..., 2:4]) ** 2 * level_anchors.view(1, count, 1, 1, 2) * stride
        joined = torch.cat([centre, size, value[..., 4:]], dim=-1)
        parts.append(joined.reshape(batch, -1, 5 + classes))
    return torch.cat(parts, dim=1)
