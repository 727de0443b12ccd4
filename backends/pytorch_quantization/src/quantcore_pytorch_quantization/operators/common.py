"""What the families of operators share: constants, operands, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore.contracts.resampling import Samples

Call = Callable[..., Any]
#: Makes the callable of a node, for tensors of a device.
Builder = Callable[[Node, torch.device], Call]


def to_tensor(values: npt.NDArray[np.generic]) -> Tensor:
    """A tensor of its own memory: the float model's constants are read-only and stay untouched."""
    return torch.tensor(np.asarray(values))


def plain(function: Call) -> Builder:
    """An operator whose inputs, constant or computed, are a function's arguments."""

    def build(node: Node, device: torch.device) -> Call:
        weave = node.operands(lambda c: to_tensor(c).to(device))
        return lambda *computed: function(*weave(*computed))

    return build


def told(function: Call, **defaults: Any) -> Builder:
    """As `plain`, with attributes as keywords: their names and what they are where left out."""

    def build(node: Node, device: torch.device) -> Call:
        weave = node.operands(lambda c: to_tensor(c).to(device))
        named = {name: node.attributes.get(name, value) for name, value in defaults.items()}
        return lambda *computed: function(*weave(*computed), **named)

    return build


def sizes(node: Node, position: int, values: Sequence[Any]) -> list[int]:
    """An input of whole numbers, constant or computed; `values` are all inputs of the node."""
    fixed = node.constants.get(position)
    found = values[position].tolist() if fixed is None else fixed.reshape(-1).tolist()
    return [int(v) for v in found]


def sampled(x: Tensor, samples: Sequence[Samples]) -> Tensor:
    """Entries of axes by their index, weighed and added up."""
    for one in samples:
        parts = [
            x.index_select(one.axis, torch.as_tensor(indices, device=x.device))
            for indices in one.indices
        ]
        if one.weights is None:
            (x,) = parts
            continue
        shape = [1] * x.dim()
        shape[one.axis] = -1
        weights = [torch.as_tensor(w, device=x.device).to(x.dtype) for w in one.weights]
        x = sum(p * w.reshape(shape) for p, w in zip(parts, weights, strict=True))  # type: ignore[assignment]
    return x


def padding_of(node: Node, value: float) -> tuple[Call, tuple[int, int]]:
    """(what to do before a window op, padding that the op does itself)."""
    top, left, bottom, right = node.pads()
    if (top, left) == (bottom, right):
        return lambda x: x, (top, left)
    return lambda x: F.pad(x, (left, right, top, bottom), value=value), (0, 0)
