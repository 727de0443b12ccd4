"""What moves values without changing them: shapes, slices, gathering, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore.contracts.resampling import padded
from quantcore_pytorch_quantization.operators.common import (
    Builder,
    Call,
    plain,
    sampled,
    sizes,
    to_tensor,
    told,
)


def _concat(node: Node, device: torch.device) -> Call:
    weave = node.operands(lambda c: to_tensor(c).to(device))
    axis = int(node.attributes["axis"])
    return lambda *computed: torch.cat(weave(*computed), dim=axis)


def _reshape(node: Node, device: torch.device) -> Call:
    weave = node.operands(lambda c: to_tensor(c).to(device))
    kept = not node.attributes.get("allowzero", 0)

    def reshape(*computed: Tensor) -> Tensor:
        x, *shape = weave(*computed)
        wanted = sizes(node, 1, (x, *shape))
        return x.reshape([x.shape[i] if s == 0 and kept else s for i, s in enumerate(wanted)])

    return reshape


def _transpose(node: Node, device: torch.device) -> Call:
    order = node.attributes.get("perm")
    return lambda x: x.permute(*(order or reversed(range(x.ndim))))


def _slice(node: Node, device: torch.device) -> Call:
    node.slices((1,) * 8)  # refuses what it cannot cut before anything runs
    return lambda x: x[tuple(node.slices(x.shape))]


def _split(node: Node, device: torch.device) -> Call:
    axis = int(node.attributes.get("axis", 0))
    node.integers(1)  # refuses sizes that are computed
    alone = len(node.outputs) == 1

    def split(x: Tensor) -> Any:
        parts = torch.split(x, node.split_sizes(x.shape[axis]), dim=axis)
        return parts[0] if alone else parts

    return split


def _flatten(node: Node, device: torch.device) -> Call:
    axis = int(node.attributes.get("axis", 1))
    return lambda x: x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(node: Node, device: torch.device) -> Call:
    axes = node.axes()
    if axes is None:
        return lambda x: x.squeeze()
    return lambda x: x.squeeze(dim=axes)


def _unsqueeze(node: Node, device: torch.device) -> Call:
    axes = node.axes()
    if axes is None:
        raise node.refused("needs axes")

    def unsqueeze(x: Tensor) -> Tensor:
        for axis in sorted(a % (x.dim() + len(axes)) for a in axes):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _expand(node: Node, device: torch.device) -> Call:
    weave = node.operands(lambda c: to_tensor(c).to(device))

    def expand(*computed: Tensor) -> Tensor:
        x, *shape = weave(*computed)
        wanted = sizes(node, 1, (x, *shape))
        return x.broadcast_to(np.broadcast_shapes(tuple(x.shape), tuple(wanted)))

    return expand


def _tile(node: Node, device: torch.device) -> Call:
    weave = node.operands(lambda c: to_tensor(c).to(device))

    def tile(*computed: Tensor) -> Tensor:
        x, *repeats = weave(*computed)
        return x.repeat(sizes(node, 1, (x, *repeats)))

    return tile


def _gather(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    where: tuple[Any, ...] = (slice(None),) * (axis % x.dim())
    where += (indices.long(),)
    return x[where]


def _gather_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    length = x.shape[axis]
    return torch.gather(x, axis, torch.where(indices < 0, indices + length, indices).long())


def _pad(node: Node, device: torch.device) -> Call:
    value = 0.0
    if node.constant(2) is not None:
        value = node.constants[2].reshape(-1)[0].item()
    node.paddings(8)  # refuses pads that are computed

    def pad(x: Tensor) -> Tensor:
        if node.attributes.get("mode", "constant") != "constant":
            return sampled(x, padded(node, x.shape))
        ends = [end for pair in reversed(node.paddings(x.dim())) for end in pair]
        return F.pad(x, ends, value=value)

    return pad


def _shape(node: Node, device: torch.device) -> Call:
    taken = slice(node.attributes.get("start", 0), node.attributes.get("end"))
    return lambda x: torch.tensor(list(x.shape)[taken], dtype=torch.int64, device=device)


FUNCTIONS: dict[str, Builder] = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": told(_gather, axis=0),
    "GatherElements": told(_gather_elements, axis=0),
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": plain(lambda x: torch.tensor(x.numel())),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
