"""Which samples Resize and Pad read: reckoned once, for every framework.

Both work on each axis by itself, so that a framework needs no more than taking entries of an axis
by their index, and adding up. Coordinates are reckoned in float32, as ONNX Runtime does: which of
two neighbours is the nearest hangs on the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantcore.contracts.nodes import Node

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_MODES = ("nearest", "linear", "cubic")
#: ONNX's name of a padding mode -> NumPy's.
_PADDING = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@dataclass(frozen=True)
class Samples:
    """What an axis becomes: the sum over `k` of `weights[k] * x[indices[k]]`.

    Attributes:
        axis: Of the tensor.
        indices: Which entries of the axis are read, an array as long as the new axis for each `k`.
        weights: What each counts, as many arrays; None where there is one `k` that counts 1.
    """

    axis: int
    indices: tuple[Indices, ...]
    weights: tuple[Floats, ...] | None = None


def padded(node: Node, shape: Sequence[int]) -> list[Samples]:
    """What Pad reads that repeats what is there.

    Args:
        node: A Pad whose mode is not `constant`.
        shape: Of the tensor.

    Raises:
        BackendError: Another mode than ONNX has.
    """
    mode = _PADDING.get(str(node.attributes.get("mode", "constant")))
    if mode is None:
        raise node.refused(f"padding mode {node.attributes['mode']!r} is not known")
    found = []
    for axis, (before, after) in enumerate(node.paddings(len(shape))):
        if (before, after) == (0, 0):
            continue
        kept = np.arange(shape[axis])[max(-before, 0) : shape[axis] - max(-after, 0)]
        around = (max(before, 0), max(after, 0))
        found.append(Samples(axis, (np.pad(kept, around, mode=mode),)))  # type: ignore[call-overload]
    return found


def factors(node: Node) -> tuple[float, float] | None:
    """(height, width) factors of a nearest Resize that samples floor(i / factor), all whole.

    Every framework has that one itself; None where the Resize is another.
    """
    plain = (
        node.attributes.get("mode", "nearest") == "nearest"
        and node.attributes.get("coordinate_transformation_mode") == "asymmetric"
        and node.attributes.get("nearest_mode") == "floor"
        and "axes" not in node.attributes
    )
    scales = node.constant(2)
    if not plain or scales is None or scales.size != 4 or scales[0] != 1 or scales[1] != 1:
        return None
    down, across = float(scales[2]), float(scales[3])
    return (down, across) if down.is_integer() and across.is_integer() else None


def check_resize(node: Node) -> None:
    """Refuses a Resize that `resized` has no samples for; raises BackendError."""
    told = node.attributes
    if told.get("mode", "nearest") not in _MODES:
        raise node.refused(f"mode {told['mode']!r} is not known; it has {', '.join(_MODES)}")
    if told.get("antialias", 0):
        raise node.refused("antialias is not supported")
    if told.get("exclude_outside", 0):
        raise node.refused("exclude_outside is not supported")
    if told.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refused("only the policy stretch is supported for aspect ratios")
    mode = told.get("coordinate_transformation_mode", "half_pixel")
    if mode not in _COORDINATES:
        raise node.refused(f"coordinates {mode!r} are not supported")
    nearest = told.get("nearest_mode", "round_prefer_floor")
    if nearest not in _NEAREST:
        raise node.refused(f"nearest mode {nearest!r} is not known")
    for position in (2, 3):
        node.constant(position)
    if not (_given(node, 2) or _given(node, 3)):
        raise node.refused("needs constant scales or sizes")


def resized(node: Node, shape: Sequence[int]) -> list[Samples]:
    """What Resize reads of a tensor, axis by axis; axes that stay as they are are left out.

    Args:
        node: A Resize that `check_resize` lets pass.
        shape: Of the tensor.
    """
    axes = [int(a) % len(shape) for a in node.attributes.get("axes", range(len(shape)))]
    scales, sizes = _given(node, 2), _given(node, 3)
    found, same = [], True
    for i, axis in enumerate(axes):
        length = shape[axis]
        if sizes:
            new, scale = int(sizes[i]), np.float32(sizes[i]) / np.float32(length)
        else:
            scale = np.float32(scales[i])
            new = int(np.floor(np.float32(length) * scale))
        same = same and new == length
        if new != length or scale != 1:
            found.append(_samples(node, axis, length, new, scale))
    return [] if same else found  # ONNX Runtime copies what keeps its shape, whatever the scales


def _given(node: Node, position: int) -> list[float]:
    values = node.constant(position)
    return [] if values is None else [float(v) for v in values.reshape(-1)]


def _samples(node: Node, axis: int, length: int, new: int, scale: np.float32) -> Samples:
    mode = str(node.attributes.get("coordinate_transformation_mode", "half_pixel"))
    at = _COORDINATES[mode](np.arange(new, dtype=np.float32), scale, length, new)
    at = np.asarray(at, np.float32)
    kind = node.attributes.get("mode", "nearest")
    last = length - 1
    if kind == "nearest":
        nearest = _NEAREST[str(node.attributes.get("nearest_mode", "round_prefer_floor"))]
        rounded = nearest(at.astype(np.float64))  # to add a half there rounds nothing
        return Samples(axis, (np.clip(rounded, 0, last).astype(np.int64),))
    if kind == "linear":
        at = np.clip(at, 0, last)
        low = np.floor(at)
        part = at - low
        high = np.minimum(low + 1, last)
        return Samples(axis, (low.astype(np.int64), high.astype(np.int64)), (1 - part, part))
    a = np.float32(node.attributes.get("cubic_coeff_a", -0.75))
    low = np.floor(at)
    part = at - low
    near, far = (part, 1 - part), (part + 1, 2 - part)
    weights = (
        ((a * far[0] - 5 * a) * far[0] + 8 * a) * far[0] - 4 * a,
        ((a + 2) * near[0] - (a + 3)) * near[0] ** 2 + 1,
        ((a + 2) * near[1] - (a + 3)) * near[1] ** 2 + 1,
        ((a * far[1] - 5 * a) * far[1] + 8 * a) * far[1] - 4 * a,
    )
    indices = tuple(np.clip(low + k, 0, last).astype(np.int64) for k in (-1, 0, 1, 2))
    return Samples(axis, indices, tuple(np.asarray(w, np.float32) for w in weights))


_Coordinates = Callable[[Floats, np.float32, int, int], Floats]
_HALF = np.float32(0.5)


def _half_pixel(x: Floats, scale: np.float32, length: int, new: int) -> Floats:
    return np.asarray((x + _HALF) / scale - _HALF, np.float32)


def _half_pixel_symmetric(x: Floats, scale: np.float32, length: int, new: int) -> Floats:
    adjustment = np.float32(new) / (scale * np.float32(length))
    offset = np.float32(length) / 2 * (1 - adjustment)
    return np.asarray(offset + _half_pixel(x, scale, length, new), np.float32)


def _align_corners(x: Floats, scale: np.float32, length: int, new: int) -> Floats:
    if new == 1:
        return np.zeros_like(x)
    return np.asarray(x * np.float32(length - 1) / np.float32(new - 1), np.float32)


#: Coordinate in the given axis of each place of the new one, by ONNX's name.
_COORDINATES: dict[str, _Coordinates] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": lambda x, scale, length, new: (
        _half_pixel(x, scale, length, new) if new > 1 else np.zeros_like(x)
    ),
    "asymmetric": lambda x, scale, length, new: np.asarray(x / scale, np.float32),
    "align_corners": _align_corners,
}


def _halves(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Coordinates, the halfway ones exact: ONNX Runtime takes a float32 next to one for it."""
    close = np.rint(at * 2) / 2
    return np.where(np.abs(at - close) < 2e-6, close, at)


#: Which entry is nearest to a coordinate, by ONNX's name.
_NEAREST: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(_halves(at) - 0.5),
    "round_prefer_ceil": lambda at: np.floor(_halves(at) + 0.5),
}
