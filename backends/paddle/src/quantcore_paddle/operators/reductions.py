"""What runs over axes: reductions, normalisations, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import paddle
from paddle.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore_paddle.operators.common import Builder, Call, Tensor, to_tensor


def _reduced(function: Callable[[Tensor, Sequence[int], bool], Tensor]) -> Builder:
    def build(node: Node) -> Call:
        keep = bool(node.attributes.get("keepdims", 1))
        node.reduced(1)  # refuses axes that are computed

        def reduce(x: Tensor) -> Tensor:
            axes = node.reduced(x.ndim)
            if not axes:  # each number by itself
                return function(x.unsqueeze(0), [0], False)
            return function(x, list(axes), keep)

        return reduce

    return build


def _extreme(function: Call) -> Builder:
    """ArgMax or ArgMin: the first of several equal ones, or the last where that is asked for."""

    def build(node: Node) -> Call:
        axis = int(node.attributes.get("axis", 0))
        keep = bool(node.attributes.get("keepdims", 1))
        if node.attributes.get("select_last_index", 0):
            raise node.refused("select_last_index is not supported")
        return lambda x: function(x, axis=axis, keepdim=keep)

    return build


def _softmax(function: Call) -> Builder:
    def build(node: Node) -> Call:
        if node.opset >= 13:
            axis = int(node.attributes.get("axis", -1))
            return lambda x: function(x, axis=axis)
        first = int(node.attributes.get("axis", 1))

        def over_the_rest(x: Tensor) -> Tensor:
            start = first % x.ndim
            flat = x.reshape([*x.shape[:start], math.prod(x.shape[start:])])
            return function(flat, axis=start).reshape(x.shape)

        return over_the_rest

    return build


def _normal(x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """Mean 0 and variance 1 along axes."""
    centred = x - x.mean(axis=list(axes), keepdim=True)
    return centred / paddle.sqrt((centred * centred).mean(axis=list(axes), keepdim=True) + epsilon)


def _layer_norm(node: Node) -> Call:
    if len(node.outputs) != 1:
        raise node.refused("mean and deviation are not supported as outputs")
    axis = int(node.attributes.get("axis", -1))
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    weave = node.operands(to_tensor)

    def norm(*computed: Tensor) -> Tensor:
        x, scale, *bias = weave(*computed)
        found = _normal(x, range(axis % x.ndim, x.ndim), epsilon) * scale
        return found + bias[0] if bias and bias[0] is not None else found

    return norm


def _instance_norm(node: Node) -> Call:
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    weave = node.operands(to_tensor)

    def norm(*computed: Tensor) -> Tensor:
        x, scale, bias = weave(*computed)
        shape = [-1] + [1] * (x.ndim - 2)
        return _normal(x, range(2, x.ndim), epsilon) * scale.reshape(shape) + bias.reshape(shape)

    return norm


def _group_norm(node: Node) -> Call:
    epsilon, groups = (
        float(node.attributes.get("epsilon", 1e-5)),
        int(node.attributes["num_groups"]),
    )
    weave = node.operands(to_tensor)

    def norm(*computed: Tensor) -> Tensor:
        x, scale, bias = weave(*computed)
        parts = _normal(x.reshape([len(x), groups, -1]), (2,), epsilon)
        if node.opset < 21:  # a number for each group; later, one for each channel
            return (parts * scale.reshape([-1, 1]) + bias.reshape([-1, 1])).reshape(x.shape)
        shape = [-1] + [1] * (x.ndim - 2)
        return parts.reshape(x.shape) * scale.reshape(shape) + bias.reshape(shape)

    return norm


def _length(x: Tensor, p: int, axes: Sequence[int], keep: bool) -> Tensor:
    if p == 1:
        return paddle.abs(x).sum(axis=axes, keepdim=keep)
    return paddle.sqrt((x * x).sum(axis=axes, keepdim=keep))


def _lp_norm(node: Node) -> Call:
    axis, p = int(node.attributes.get("axis", -1)), int(node.attributes.get("p", 2))
    return lambda x: x / _length(x, p, [axis], True)


def _top_k(node: Node) -> Call:
    (count,) = node.needed(1)
    axis = int(node.attributes.get("axis", -1))
    largest = bool(node.attributes.get("largest", 1))

    def top(x: Tensor) -> list[Tensor]:
        # In ONNX the first of equal values comes first: only a stable sort promises that.
        order = paddle.argsort(x, axis=axis, descending=largest, stable=True)
        chosen = paddle.slice(order, [axis], [0], [count])
        return [paddle.take_along_axis(x, chosen, axis, broadcast=False), chosen]

    return top


FUNCTIONS: dict[str, Builder] = {
    "ArgMax": _extreme(paddle.argmax),
    "ArgMin": _extreme(paddle.argmin),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax(F.log_softmax),
    "LpNormalization": _lp_norm,
    "ReduceL1": _reduced(lambda x, axes, keep: _length(x, 1, axes, keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: _length(x, 2, axes, keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: paddle.max(x, axis=axes, keepdim=keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axis=axes, keepdim=keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: paddle.min(x, axis=axes, keepdim=keep)),
    "ReduceProd": _reduced(lambda x, axes, keep: paddle.prod(x, axis=axes, keepdim=keep)),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axis=axes, keepdim=keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(axis=axes, keepdim=keep)),
    "Softmax": _softmax(F.softmax),
    "TopK": _top_k,
}
