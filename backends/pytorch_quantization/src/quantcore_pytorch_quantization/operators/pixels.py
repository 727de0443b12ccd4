"""What knows that a tensor is a picture: pooling, resizing, sampling, depth and space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from quantcore.contracts.nodes import Node
from quantcore.contracts.resampling import check_resize, factors, resized
from quantcore_pytorch_quantization.operators.common import (
    Builder,
    Call,
    padding_of,
    plain,
    sampled,
    to_tensor,
    told,
)


def _max_pool(node: Node, device: torch.device) -> Call:
    if len(node.outputs) != 1:
        raise node.refused("indices are not supported")
    before, padding = padding_of(node, float("-inf"))
    kernel, strides = node.pair("kernel_shape"), node.pair("strides")
    dilations, ceil = node.pair("dilations"), bool(node.attributes.get("ceil_mode", 0))

    def pool(x: Tensor) -> Tensor:
        found = F.max_pool2d(before(x), kernel, strides, padding, dilations, ceil)
        # Where the padding goes in front, torch takes it for a part of the picture.
        if not ceil:
            return found
        rows, columns = node.begins(*x.shape[2:])
        return found[:, :, rows, columns]

    return pool


def _avg_pool(node: Node, device: torch.device) -> Call:
    top, left, bottom, right = node.pads()
    if (top, left) != (bottom, right):
        raise node.refused("needs equal padding on both sides")
    if node.pair("dilations") != (1, 1):
        raise node.refused("dilations are not supported")
    kernel, strides = node.pair("kernel_shape"), node.pair("strides")
    ceil = bool(node.attributes.get("ceil_mode", 0))
    count = bool(node.attributes.get("count_include_pad", 0))
    return lambda x: F.avg_pool2d(x, kernel, strides, (top, left), ceil, count)


def _resize(node: Node, device: torch.device) -> Call:
    check_resize(node)
    scales = factors(node)
    if scales is not None:
        # With a size instead, torch would recompute the factors and sample elsewhere.
        return lambda x: F.interpolate(
            x, scale_factor=scales, mode="nearest", recompute_scale_factor=False
        )
    return lambda x: sampled(x, resized(node, x.shape))


def _grid_sample(node: Node, device: torch.device) -> Call:
    weave = node.operands(lambda c: to_tensor(c).to(device))
    known = {"linear": "bilinear", "cubic": "bicubic"}  # since opset 20
    mode = str(node.attributes.get("mode", "bilinear"))
    padding = str(node.attributes.get("padding_mode", "zeros"))
    align = bool(node.attributes.get("align_corners", 0))

    def sample(*computed: Tensor) -> Tensor:
        x, grid = weave(*computed)
        return F.grid_sample(x, grid, known.get(mode, mode), padding, align)

    return sample


def _depth_to_space(x: Tensor, blocksize: int, mode: str) -> Tensor:
    n, c, h, w = x.shape
    side, deep = blocksize, c // blocksize**2
    if mode == "CRD":
        parts = x.reshape(n, deep, side, side, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, side, side, deep, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, deep, h * side, w * side)


def _space_to_depth(x: Tensor, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    side = blocksize
    parts = x.reshape(n, c, h // side, side, w // side, side).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * side**2, h // side, w // side)


FUNCTIONS: dict[str, Builder] = {
    "AveragePool": _avg_pool,
    "DepthToSpace": told(_depth_to_space, blocksize=1, mode="DCR"),
    "GlobalAveragePool": plain(lambda x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True)),
    "GlobalMaxPool": plain(lambda x: x.amax(dim=tuple(range(2, x.dim())), keepdim=True)),
    "GridSample": _grid_sample,
    "MaxPool": _max_pool,
    "Resize": _resize,
    "SpaceToDepth": told(_space_to_depth, blocksize=1),
}
