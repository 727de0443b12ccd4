"""Presets of Ultralytics' later networks: YOLOv8, YOLOv9, YOLO11; YOLOv10 and YOLO26 end to end."""

from __future__ import annotations

from quantcore.evaluation.decoding.anchor_free import AnchorFreeDecoding
from quantcore.evaluation.decoding.end_to_end import EndToEndDecoding
from quantcore.evaluation.decoding.gfl import GflDecoding, cell_grids
from quantcore.ir.decoding import Decoding
from quantcore.ir.model import Preprocessing
from quantcore_onnx.ends import Ends, Heads, Preset

#: Length of the distributions of YOLOv8, YOLOv9 and YOLO11.
_BINS = 16

#: Numbers of a detection: corners, score, class.
_DETECTION = 6


def _looks(size: tuple[int, int]) -> Preprocessing:
    """As Ultralytics validates: what YOLOv5 did before."""
    return Preprocessing(size)


def _find_free(ends: Ends) -> Heads | None:
    """One tensor of boxes and scores, or the raw heads."""
    if ends.flat is None:
        return _find_raw(ends)
    name, (_, first, second) = ends.flat
    layouts = [
        (layout, keys)
        for layout, keys, count in (("columns", first, second), ("rows", second, first))
        if keys > 4
        and ends.counts(count, fewest=2 if _DETECTION in (first, second) else 1)
        and ends.names_as_many(keys - 4)
    ]
    if not layouts:
        return None
    layout, keys = min(layouts, key=lambda found: found[1])
    decoding = AnchorFreeDecoding(layout, ends.box_form(name), not ends.has_sigmoid(name))
    # Rows of 4 + C numbers could as well be 5 + C.
    sure = layout == "columns" or ends.classes is not None
    return Heads((name,), decoding, keys - 4, _looks(ends.size), sure)


def _find_raw(ends: Ends) -> Heads | None:
    """For each stride B x (64+C) x H x W, the distributions first."""
    names = sorted(ends.outputs, key=lambda n: -max(ends.outputs[n][2:], default=0))
    shapes = [ends.outputs[name] for name in names]
    keys = {shape[1] for shape in shapes if len(shape) == 4}
    strides = next(
        (
            strides
            for strides, _ in ends.runs()
            if [shape[2:] for shape in shapes] == list(cell_grids(ends.size, strides))
        ),
        None,
    )
    if strides is None or len(keys) != 1:
        return None
    classes = keys.pop() - 4 * _BINS
    if classes < 1 or not ends.names_as_many(classes):
        return None
    sigmoid = not any(map(ends.has_sigmoid, names))
    decoding = GflDecoding(strides, _BINS, "boxes_first", "maps", sigmoid=sigmoid)
    # Three heads of 64 + C numbers could as well be three anchors of 5 + C.
    sure = ends.classes is not None
    return Heads(tuple(names), decoding, classes, _looks(ends.size), sure)


def _reads_free(decoding: Decoding) -> bool:
    if isinstance(decoding, GflDecoding):
        return decoding.order == "boxes_first"
    return isinstance(decoding, AnchorFreeDecoding)


def _find_end_to_end(ends: Ends) -> Heads | None:
    """One tensor B x N x 6, fewer rows than a network has cells."""
    if ends.flat is None:
        return None
    name, (_, count, keys) = ends.flat
    if keys != _DETECTION or ends.counts(count, each=(1, 3)):
        return None
    classes = ends.classes or ends.divisor()
    return Heads((name,), EndToEndDecoding(), classes, _looks(ends.size), sure=True)


YOLOV8 = Preset(
    wanted="one output B x (4+classes) x N or its transpose with the N cells of its strides, or "
    f"raw heads B x ({4 * _BINS}+classes) x H x W",
    find=_find_free,
    preprocessings=lambda size: (_looks(size),),
    reads=_reads_free,
)

END_TO_END = Preset(
    wanted="one output B x N x 6 of detections",
    find=_find_end_to_end,
    preprocessings=lambda size: (_looks(size),),
    reads=lambda decoding: decoding == EndToEndDecoding(),
)
