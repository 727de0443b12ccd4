"""What runs over axes: reductions, normalisations, sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from quantcore.contracts.nodes import Node
from quantcore_pytorch_quantization.operators.common import Builder, Call, to_tensor


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Builder:
    def build(node: Node, device: torch.device) -> Call:
        keep = bool(node.attributes.get("keepdims", 1))
        node.reduced(1)  # refuses axes that are computed

        def reduce(x: Tensor) -> Tensor:
            axes = node.reduced(x.dim())
            if not axes:  # each number by itself
                return function(x.unsqueeze(0), [0], False)
            return function(x, list(axes), keep)

        return reduce

    return build


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(dim=axis, keepdim=keep)
    return x


def _extreme(function: Callable[..., Tensor]) -> Builder:
    """ArgMax or ArgMin: the first of several equal ones, or the last where that is asked for."""

    def build(node: Node, device: torch.device) -> Call:
        axis = int(node.attributes.get("axis", 0))
        keep = bool(node.attributes.get("keepdims", 1))
        if node.attributes.get("select_last_index", 0):
            raise node.refused("select_last_index is not supported")
        return lambda x: function(x, dim=axis, keepdim=keep)

    return build


def _softmax(function: Callable[..., Tensor]) -> Builder:
    def build(node: Node, device: torch.device) -> Call:
        if node.opset >= 13:
            axis = int(node.attributes.get("axis", -1))
            return lambda x: function(x, dim=axis)
        first = int(node.attributes.get("axis", 1))

        def over_the_rest(x: Tensor) -> Tensor:
            start = first % x.dim()
            return function(x.flatten(start), dim=start).reshape(x.shape)

        return over_the_rest

    return build


def _normal(x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """Mean 0 and variance 1 along axes."""
    centred = x - x.mean(dim=list(axes), keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(dim=list(axes), keepdim=True) + epsilon)


def _layer_norm(node: Node, device: torch.device) -> Call:
    if len(node.outputs) != 1:
        raise node.refused("mean and deviation are not supported as outputs")
    axis = int(node.attributes.get("axis", -1))
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    weave = node.operands(lambda c: to_tensor(c).to(device))

    def norm(*computed: Tensor) -> Tensor:
        x, scale, *bias = weave(*computed)
        found = _normal(x, range(axis % x.dim(), x.dim()), epsilon) * scale
        return found + bias[0] if bias and bias[0] is not None else found

    return norm


def _instance_norm(node: Node, device: torch.device) -> Call:
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    weave = node.operands(lambda c: to_tensor(c).to(device))

    def norm(*computed: Tensor) -> Tensor:
        x, scale, bias = weave(*computed)
        shape = [-1] + [1] * (x.dim() - 2)
        return _normal(x, range(2, x.dim()), epsilon) * scale.reshape(shape) + bias.reshape(shape)

    return norm


def _group_norm(node: Node, device: torch.device) -> Call:
    epsilon, groups = (
        float(node.attributes.get("epsilon", 1e-5)),
        int(node.attributes["num_groups"]),
    )
    weave = node.operands(lambda c: to_tensor(c).to(device))

    def norm(*computed: Tensor) -> Tensor:
        x, scale, bias = weave(*computed)
        parts = _normal(x.reshape(len(x), groups, -1), (2,), epsilon)
        if node.opset < 21:  # a number for each group; later, one for each channel
            return (parts * scale[:, None] + bias[:, None]).reshape(x.shape)
        shape = [-1] + [1] * (x.dim() - 2)
        return parts.reshape(x.shape) * scale.reshape(shape) + bias.reshape(shape)

    return norm


def _lp_norm(node: Node, device: torch.device) -> Call:
    axis, p = int(node.attributes.get("axis", -1)), int(node.attributes.get("p", 2))
    return lambda x: x / torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)


def _top_k(node: Node, device: torch.device) -> Call:
    (count,) = node.needed(1)
    axis = int(node.attributes.get("axis", -1))
    largest = bool(node.attributes.get("largest", 1))

    def top(x: Tensor) -> list[Tensor]:
        # torch.topk says nothing about the order of equal values; in ONNX the first comes first.
        found = torch.sort(x, dim=axis, descending=largest, stable=True)
        return [part.narrow(axis, 0, count) for part in (found.values, found.indices)]

    return top


FUNCTIONS: dict[str, Builder] = {
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": _lp_norm,
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(dim=axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: (x * x).sum(dim=axes, keepdim=keep).sqrt()),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(dim=axes, keepdim=keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(dim=axes, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(dim=axes, keepdim=keep)),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(dim=axes, keepdim=keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(dim=axes, keepdim=keep)),
    "Softmax": _softmax(torch.softmax),
    "TopK": _top_k,
}
