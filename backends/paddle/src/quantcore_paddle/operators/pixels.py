"""What knows that a tensor is a picture: pooling, resizing, sampling, depth and space."""

from __future__ import annotations

import paddle
from paddle.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore.contracts.resampling import check_resize, factors, resized
from quantcore_paddle.operators.common import (
    Builder,
    Call,
    Tensor,
    padding_of,
    plain,
    sampled,
    to_tensor,
    told,
)


def _avg_pool(node: Node) -> Call:
    kernel, strides, padding = node.pair("kernel_shape"), node.pair("strides"), padding_of(node)
    if len(padding) != 2:
        # Paddle takes four numbers, and divides by the wrong count at the two far sides.
        raise node.refused("needs equal padding on both sides")
    if node.pair("dilations") != (1, 1):
        raise node.refused("dilations are not supported")
    ceil = bool(node.attributes.get("ceil_mode", 0))
    exclusive = not node.attributes.get("count_include_pad", 0)

    def pool(x: Tensor) -> Tensor:
        found = F.avg_pool2d(x, kernel, strides, padding, ceil, exclusive)
        if not ceil:
            return found
        rows, columns = node.begins(*x.shape[2:])
        return found[:, :, rows, columns]

    return pool


def _resize(node: Node) -> Call:
    check_resize(node)
    scales = factors(node)
    if scales is not None:
        # With a size instead, Paddle would recompute the factors and sample elsewhere.
        return lambda x: F.interpolate(x, scale_factor=list(scales), mode="nearest")
    return lambda x: sampled(x, resized(node, x.shape))


def _grid_sample(node: Node) -> Call:
    weave = node.operands(to_tensor)
    mode = str(node.attributes.get("mode", "bilinear"))
    mode = {"linear": "bilinear"}.get(mode, mode)  # so called since opset 20
    if mode not in ("bilinear", "nearest"):
        raise node.refused(f"Paddle samples grids bilinear or nearest, not {mode}")
    padding = str(node.attributes.get("padding_mode", "zeros"))
    align = bool(node.attributes.get("align_corners", 0))

    def sample(*computed: Tensor) -> Tensor:
        x, grid = weave(*computed)
        return F.grid_sample(x, grid, mode, padding, align)

    return sample


def _depth_to_space(x: Tensor, blocksize: int, mode: str) -> Tensor:
    n, c, h, w = x.shape
    side, deep = blocksize, c // blocksize**2
    if mode == "CRD":
        parts = x.reshape([n, deep, side, side, h, w]).transpose([0, 1, 4, 2, 5, 3])
    else:
        parts = x.reshape([n, side, side, deep, h, w]).transpose([0, 3, 4, 1, 5, 2])
    return parts.reshape([n, deep, h * side, w * side])


def _space_to_depth(x: Tensor, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    side = blocksize
    parts = x.reshape([n, c, h // side, side, w // side, side]).transpose([0, 3, 5, 1, 2, 4])
    return parts.reshape([n, c * side**2, h // side, w // side])


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


FUNCTIONS: dict[str, Builder] = {
    "AveragePool": _avg_pool,
    "DepthToSpace": told(_depth_to_space, blocksize=1, mode="DCR"),
    "GlobalAveragePool": plain(lambda x: x.mean(axis=_spatial(x), keepdim=True)),
    "GlobalMaxPool": plain(lambda x: paddle.max(x, axis=_spatial(x), keepdim=True)),
    "GridSample": _grid_sample,
    "Resize": _resize,
    "SpaceToDepth": told(_space_to_depth, blocksize=1),
}
