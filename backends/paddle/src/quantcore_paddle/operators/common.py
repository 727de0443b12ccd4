"""What the families of operators share: constants, operands, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from quantcore.contracts.nodes import Node
from quantcore.contracts.resampling import Samples

Call = Callable[..., Any]
Tensor = Any
#: Makes the callable of a node.
Builder = Callable[[Node], Call]


def to_tensor(values: npt.NDArray[np.generic]) -> Tensor:
    """A tensor of its own memory: the float model's constants are read-only and stay untouched."""
    return paddle.to_tensor(np.array(values))


def plain(function: Call) -> Builder:
    """An operator whose inputs, constant or computed, are a function's arguments."""

    def build(node: Node) -> Call:
        weave = node.operands(to_tensor)
        return lambda *computed: function(*weave(*computed))

    return build


def told(function: Call, **defaults: Any) -> Builder:
    """As `plain`, with attributes as keywords: their names and what they are where left out."""

    def build(node: Node) -> Call:
        weave = node.operands(to_tensor)
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
        parts = [paddle.index_select(x, to_tensor(i), axis=one.axis) for i in one.indices]
        if one.weights is None:
            (x,) = parts
            continue
        shape = [1] * x.ndim
        shape[one.axis] = -1
        weights = [to_tensor(w).astype(x.dtype).reshape(shape) for w in one.weights]
        x = sum(part * weight for part, weight in zip(parts, weights, strict=True))
    return x


def padding_of(node: Node) -> list[int]:
    """Paddle's order: top, bottom, left, right; one number a side where both sides are equal."""
    top, left, bottom, right = node.pads()
    return [top, left] if (top, left) == (bottom, right) else [top, bottom, left, right]
