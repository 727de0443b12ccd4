"""Presets of networks with objectness: YOLOv5 and YOLOv7, about anchors, and YOLOX."""

from __future__ import annotations

from quantcore.evaluation.decoding.anchors import AnchorDecoding
from quantcore.evaluation.decoding.boxes import DecodedBoxes
from quantcore.evaluation.decoding.grid import GridDecoding
from quantcore.ir.decoding import Decoding
from quantcore.ir.model import Preprocessing
from quantcore_onnx.ends import Ends, Heads, Preset

Anchors = tuple[tuple[tuple[float, float], ...], ...]

#: COCO anchors in pixels by preset, finest head first.
ANCHORS: dict[str, Anchors] = {
    "yolov5": (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    ),
    "yolov7": (
        ((12, 16), (19, 36), (40, 28)),
        ((36, 75), (76, 55), (72, 146)),
        ((142, 110), (192, 243), (459, 401)),
    ),
}
STRIDES = (8, 16, 32)

_WANTED = "one output B x N x (5+classes)"
_RAW = f"three raw heads of strides {', '.join(map(str, STRIDES))}"


def anchored(name: str) -> Preset:
    """YOLOv5 or YOLOv7: decoded, or three raw heads."""
    raw = AnchorDecoding(STRIDES, ANCHORS[name])

    def find(ends: Ends) -> Heads | None:
        looks = Preprocessing(ends.size)
        if ends.flat is not None:
            return _decoded(ends, looks)
        heads = [ends.before_split(n) if len(s) == 5 else n for n, s in ends.outputs.items()]
        heads.sort(key=lambda head: -max(ends.shapes.get(head, (0,))[2:], default=0))
        shapes = [ends.shapes.get(head, ()) for head in heads]
        each = len(raw.anchors[0])
        wanted = [(ends.size[0] // s, ends.size[1] // s) for s in STRIDES]
        if [shape[2:] for shape in shapes] != wanted or len({s[1] for s in shapes}) > 1:
            return None
        classes, rest = shapes[0][1] // each - 5, shapes[0][1] % each
        if rest or classes < 1 or not ends.names_as_many(classes):
            return None
        return Heads(tuple(heads), raw, classes, looks)

    return Preset(
        wanted=f"{_WANTED}, or {_RAW}",
        find=find,
        preprocessings=lambda size: (Preprocessing(size),),
        reads=lambda decoding: decoding in (raw, DecodedBoxes()),
    )


def _decoded(ends: Ends, looks: Preprocessing) -> Heads | None:
    """One tensor B x N x (5+C); a detection of six numbers is not a prediction of one class."""
    assert ends.flat is not None
    name, (_, count, keys) = ends.flat
    known = ends.counts(count, each=(1, 3))
    # What else is no number of cells may be: other strides, other anchors.
    open_ = keys > 6 and not ends.counts(keys)
    if keys < 6 or not (known or open_) or not ends.names_as_many(keys - 5):
        return None
    told = ends.classes is not None
    return Heads((name,), DecodedBoxes(), keys - 5, looks, told or ends.counts(count, each=(3,)))


def _find_yolox(ends: Ends) -> Heads | None:
    """One tensor B x N x (5+C); all else in the file belongs to another network."""
    cells = sum((ends.size[0] // s) * (ends.size[1] // s) for s in STRIDES)
    if ends.flat is None or len(ends.outputs) > 1:
        return None
    name, (_, count, keys) = ends.flat
    if count != cells or keys < 6 or not ends.names_as_many(keys - 5):
        return None
    # Width and height are exponentials: a graph without Exp leaves decoding to its reader.
    decodes = any(node.op_type == "Exp" for node in ends.graph.node)
    decoding: Decoding = DecodedBoxes() if decodes else GridDecoding(STRIDES)
    return Heads((name,), decoding, keys - 5, _yolox_looks(ends.size))


def _yolox_looks(size: tuple[int, int]) -> Preprocessing:
    return Preprocessing(size, channels="bgr", scale=1.0, placement="top_left")


YOLOX = Preset(
    wanted=f"{_WANTED} with the cells of strides {', '.join(map(str, STRIDES))}",
    find=_find_yolox,
    preprocessings=lambda size: (_yolox_looks(size),),
    reads=lambda decoding: decoding in (GridDecoding(STRIDES), DecodedBoxes()),
)
