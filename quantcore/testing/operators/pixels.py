"""Pooling, resizing, sampling, depth and space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quantcore.testing.operators.case import Case, Pick, Values, computed, int64


def _picture(pick: Pick, low: int = 3) -> Values:
    return pick.floats((pick.whole(1, 2), pick.whole(1, 3), pick.whole(low, 8), pick.whole(low, 8)))


def _max_pool(pick: Pick) -> Case:
    kernel = pick.whole(1, 3)
    told: dict[str, Any] = {
        "kernel_shape": [kernel, kernel],
        "strides": [pick.whole(1, 2), pick.whole(1, 2)],
        "pads": [pick.whole(0, kernel // 2) for _ in range(4)],
    }
    if pick.maybe():
        told["ceil_mode"] = 1
    return Case("MaxPool", (computed(_picture(pick)),), told, 12)


def _average_pool(pick: Pick) -> Case:
    kernel = pick.whole(1, 3)
    top, left = pick.whole(0, kernel // 2), pick.whole(0, kernel // 2)
    told: dict[str, Any] = {
        "kernel_shape": [kernel, kernel],
        "strides": [pick.whole(1, 2), pick.whole(1, 2)],
        "pads": [top, left, top, left],
        "count_include_pad": pick.whole(0, 1),
        "ceil_mode": pick.whole(0, 1),
    }
    return Case("AveragePool", (computed(_picture(pick)),), told, pick.one((11, 19)))


def _global(op: str) -> Callable[[Pick], Case]:
    return lambda pick: Case(op, (computed(_picture(pick, 1)),))


def _resize(pick: Pick) -> Case:
    x = _picture(pick, 1)
    mode = pick.one(("nearest", "linear", "linear", "cubic"))
    told: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": pick.one(
            ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
        ),
    }
    if mode == "nearest":
        rounded = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        told["nearest_mode"] = pick.one(rounded)
    if mode == "cubic" and pick.maybe():
        told["cubic_coeff_a"] = -0.5
    opset = pick.one((11, 13, 18, 19))
    if pick.maybe():
        sizes = [pick.whole(1, 12), pick.whole(1, 12)]
        by: tuple[Values | None, ...] = (None, int64([*x.shape[:2], *sizes]))
    else:
        scales = [pick.one((0.5, 1.0, 1.3, 2.0, 2.5, 3.0)) for _ in range(2)]
        scales = [max(s, 1 / side) for s, side in zip(scales, x.shape[2:], strict=True)]
        by = (np.array([1, 1, *scales], np.float32),)
    if opset >= 18 and pick.maybe():
        told["axes"] = [2, 3]
        by = tuple(None if values is None else values[2:] for values in by)
    if opset == 11:  # where what is left out is there, but empty
        none = np.array([], np.float32)
        return Case(
            "Resize", (computed(x), none, *(none if b is None else b for b in by)), told, 11
        )
    return Case("Resize", (computed(x), None, *by), told, opset)


def _grid_sample(pick: Pick) -> Case:
    x = _picture(pick, 1)
    opset = pick.one((16, 20))
    grid = pick.floats((len(x), pick.whole(1, 5), pick.whole(1, 5), 2), -1.3, 1.3)
    grid = grid + np.float32(1e-3)  # off the edges, where a last bit decides what is nearest
    linear = "linear" if opset == 20 else "bilinear"
    told = {
        "mode": pick.one((linear, "nearest")),
        "padding_mode": pick.one(("zeros", "border", "reflection")),
        "align_corners": pick.whole(0, 1),
    }
    return Case("GridSample", (computed(x), pick.given(grid)), told, opset)


def _depth_to_space(pick: Pick) -> Case:
    side = pick.whole(1, 3)
    x = pick.floats((pick.whole(1, 2), pick.whole(1, 2) * side**2, pick.whole(1, 3), 2))
    told = {"blocksize": side, **pick.one(({}, {"mode": "DCR"}, {"mode": "CRD"}))}
    return Case("DepthToSpace", (computed(x),), told, pick.one((11, 13)))


def _space_to_depth(pick: Pick) -> Case:
    side = pick.whole(1, 3)
    x = pick.floats((pick.whole(1, 2), pick.whole(1, 3), side * pick.whole(1, 3), side * 2))
    return Case("SpaceToDepth", (computed(x),), {"blocksize": side}, 13)


CASES: dict[str, Callable[[Pick], Case]] = {
    "AveragePool": _average_pool,
    "DepthToSpace": _depth_to_space,
    "GlobalAveragePool": _global("GlobalAveragePool"),
    "GlobalMaxPool": _global("GlobalMaxPool"),
    "GridSample": _grid_sample,
    "MaxPool": _max_pool,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
}
