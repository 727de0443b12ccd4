"""Layers with weights, and products of activations."""

from __future__ import annotations

from collections.abc import Callable

from quantcore.testing.operators.case import Case, Pick, computed


def _conv(pick: Pick) -> Case:
    groups, wide, deep = pick.whole(1, 3), pick.whole(1, 3), pick.whole(1, 3)
    kernel = [pick.whole(1, 3), pick.whole(1, 3)]
    x = pick.floats((pick.whole(1, 2), groups * wide, pick.whole(5, 9), pick.whole(5, 9)))
    weight = pick.floats((groups * deep, wide, *kernel), -1, 1)
    bias = (pick.floats((groups * deep,)),) if pick.maybe() else ()
    told = {
        "group": groups,
        "strides": [pick.whole(1, 2), pick.whole(1, 2)],
        "dilations": [pick.whole(1, 2), pick.whole(1, 2)],
        "pads": [pick.whole(0, 2) for _ in range(4)],
        "kernel_shape": kernel,
    }
    return Case("Conv", (computed(x), weight, *bias), told, pick.one((11, 17)))


def _conv_transpose(pick: Pick) -> Case:
    groups, wide, deep = pick.whole(1, 2), pick.whole(1, 3), pick.whole(1, 3)
    kernel, strides = [pick.whole(2, 3), pick.whole(2, 3)], [pick.whole(1, 2), pick.whole(1, 2)]
    x = pick.floats((pick.whole(1, 2), groups * wide, pick.whole(3, 5), pick.whole(3, 5)))
    weight = pick.floats((groups * wide, deep, *kernel), -1, 1)
    bias = (pick.floats((groups * deep,)),) if pick.maybe() else ()
    top, left = pick.whole(0, 1), pick.whole(0, 1)
    told = {"group": groups, "strides": strides, "pads": [top, left, top, left]}
    if strides == [2, 2]:
        told["output_padding"] = [pick.whole(0, 1), pick.whole(0, 1)]
    return Case("ConvTranspose", (computed(x), weight, *bias), told, pick.one((11, 17)))


def _gemm(pick: Pick) -> Case:
    m, k, n = (pick.whole(1, 5) for _ in range(3))
    turned = pick.maybe()
    weight = pick.floats((n, k) if turned else (k, n))
    bias = pick.one(((), (pick.floats((n,)),), (pick.floats((1,)),)))
    told: dict[str, object] = {"transB": 1} if turned else {}
    if pick.maybe():
        return Case("Gemm", (computed(pick.floats((m, k))), weight, *bias), told, 13)
    told |= {
        "alpha": pick.one((1.0, 0.5)),
        "beta": pick.one((1.0, 2.0)),
        "transA": pick.whole(0, 1),
    }
    x = pick.floats((k, m) if told["transA"] else (m, k))
    return Case("Gemm", (computed(x), computed(weight), *bias), told, 13)


def _matmul(pick: Pick) -> Case:
    m, k, n = (pick.whole(1, 5) for _ in range(3))
    lead = tuple(pick.whole(1, 3) for _ in range(pick.whole(0, 2)))
    x = computed(pick.floats((*lead, m, k)))
    if pick.maybe():
        return Case("MatMul", (x, pick.floats((k, n))), {}, 13)
    y = pick.floats((*(1 if pick.maybe() else side for side in lead), k, n))
    if pick.maybe():
        return Case("MatMul", (x, computed(y)), {}, 13)
    return Case("MatMul", (pick.floats((m, k)), computed(y)), {}, 13)


CASES: dict[str, Callable[[Pick], Case]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
