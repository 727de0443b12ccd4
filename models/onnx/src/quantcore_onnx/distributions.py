"""Presets of PicoDet and NanoDet: class scores and box distributions for each stride."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantcore.evaluation.decoding.gfl import GflDecoding, cell_grids
from quantcore.ir.decoding import Decoding
from quantcore.ir.model import Preprocessing
from quantcore_onnx.ends import Ends, Heads, Preset, Shape

#: `reg_max + 1` of both, where a file does not show it.
_BINS = 8

#: NanoDet-Plus has a fourth head, points at the corners of its cells, and stretches its images.
_PLUS_HEADS = 4


@dataclass(frozen=True)
class _Layout:
    """Raw heads as they were found.

    Attributes:
        names: In the order that the decoding reads them.
        strides: Finest first.
        bins: Length of a distribution.
        classes: Number of classes.
        form: As `GflDecoding` has it.
        merged: Likewise.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    bins: int
    classes: int
    form: str
    merged: bool


def _find_picodet(ends: Ends) -> Heads | None:
    found = _pairs(ends)
    if found is None:
        return None
    sigmoid = not ends.has_sigmoid(found.names[0])
    decoding = GflDecoding(found.strides, found.bins, "pairs", found.form, sigmoid=sigmoid)
    return Heads(found.names, decoding, found.classes, _picodet_looks(ends.size))


def _find_nanodet(ends: Ends) -> Heads | None:
    found = _pairs(ends) or _merged(ends)
    if found is None:
        return None
    plus = len(found.strides) >= _PLUS_HEADS
    decoding = GflDecoding(
        found.strides,
        found.bins,
        "scores_first" if found.merged else "pairs",
        found.form,
        found.merged,
        0.0 if plus else 0.5,
        not ends.has_sigmoid(found.names[0]),
    )
    return Heads(found.names, decoding, found.classes, _nanodet_looks(ends.size)[plus])


def _pairs(ends: Ends) -> _Layout | None:
    """Two outputs for each stride."""
    count, odd = divmod(len(ends.outputs), 2)
    if odd or not count:
        return None
    for strides, _ in ends.runs():
        if len(strides) != count:
            continue
        for form in ("rows", "columns", "maps"):
            levels = _levels(ends, strides, form)
            found = levels and _sorted_pairs(ends, levels)
            if found:
                names, bins, classes = found
                return _Layout(names, strides, bins, classes, form, False)
    return None


def _levels(ends: Ends, strides: tuple[int, ...], form: str) -> list[list[tuple[str, int]]] | None:
    """For each stride its two outputs and their numbers for a cell; None for other outputs."""
    sides = cell_grids(ends.size, strides)
    levels = [
        [(n, keys) for n, s in ends.outputs.items() if (keys := _keys(s, form, side))]
        for side in sides
    ]
    return levels if all(len(level) == 2 for level in levels) else None


def _keys(shape: Shape, form: str, side: tuple[int, int]) -> int:
    """How many numbers an output has for each cell; 0 where its cells are others."""
    if form == "maps":
        return shape[1] if len(shape) == 4 and shape[2:] == side else 0
    if len(shape) != 3:
        return 0
    cells, keys = shape[1:] if form == "rows" else shape[:0:-1]
    return keys if cells == side[0] * side[1] else 0


def _sorted_pairs(
    ends: Ends, levels: Sequence[Sequence[tuple[str, int]]]
) -> tuple[tuple[str, ...], int, int] | None:
    """Names, scores first, with the bins and classes; None where strides differ."""
    for at in (1, 0):  # scores come first in what both projects export
        scores, boxes = [level[1 - at] for level in levels], [level[at] for level in levels]
        by_bins = {keys for _, keys in boxes}
        if by_bins != {4 * _BINS} and at == 1 and {k for _, k in scores} == {4 * _BINS}:
            continue
        bins, odd = divmod(max(by_bins), 4)
        classes = {keys for _, keys in scores}
        if len(by_bins) > 1 or odd or len(classes) > 1:
            continue
        if ends.names_as_many(max(classes)):
            return tuple(name for name, _ in (*scores, *boxes)), bins, max(classes)
    return None


def _merged(ends: Ends) -> _Layout | None:
    """One output for all strides, scores first."""
    if ends.flat is None or len(ends.outputs) > 1:
        return None
    name, (_, first, second) = ends.flat
    for form, cells, keys in (("rows", first, second), ("columns", second, first)):
        classes = ends.classes or keys - 4 * _BINS
        bins, odd = divmod(keys - classes, 4)
        strides = next((s for s, n in ends.runs() if n == cells and len(s) > 1), None)
        if strides and classes > 0 and bins > 1 and not odd:
            return _Layout((name,), strides, bins, classes, form, True)
    return None


def _picodet_looks(size: tuple[int, int]) -> Preprocessing:
    """As PaddleDetection validates: stretched by cubic interpolation, ImageNet's statistics."""
    return Preprocessing(
        size,
        fit="stretch",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="cubic",
    )


def _nanodet_looks(size: tuple[int, int]) -> tuple[Preprocessing, Preprocessing]:
    """NanoDet and NanoDet-Plus: ImageNet's statistics in 0..255 and BGR; black borders."""
    statistics = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
    fits = ("letterbox", "stretch")
    plain, plus = (Preprocessing(size, "bgr", 1.0, "center", 0, fit, *statistics) for fit in fits)
    return plain, plus


def _reads(decoding: Decoding) -> bool:
    return isinstance(decoding, GflDecoding) and decoding.order != "boxes_first"


_PAIRS = "for each stride an output of class scores and one of 4 distributions"

PICODET = Preset(
    wanted=_PAIRS,
    find=_find_picodet,
    preprocessings=lambda size: (_picodet_looks(size),),
    reads=lambda decoding: _reads(decoding) and decoding.heads > 1,
)

NANODET = Preset(
    wanted=f"{_PAIRS}, or one output B x N x (classes+{4 * _BINS}) of both",
    find=_find_nanodet,
    preprocessings=_nanodet_looks,
    reads=_reads,
)
