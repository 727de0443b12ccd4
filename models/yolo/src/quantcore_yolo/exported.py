"""Families whose checkpoints are not built here, but read as the ONNX file their project exports.

They are told by the names of the classes in the pickle; nothing of those classes is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quantcore.errors import CheckpointError
from quantcore_yolo.records import Record

#: Family by a class that only it has, the later ones first: they keep blocks of those before.
_BLOCKS = {
    "RTDETRDecoder": "RT-DETR",
    "v10Detect": "YOLOv10",
    "A2C2f": "YOLO12",
    "C3k2": "YOLO11",
    "RepNCSPELAN4": "YOLOv9",
    "C2f": "YOLOv8",
}

#: A branch that YOLO26's head has beside YOLO11's.
_ONE_TO_ONE = "one2one_cv2"


def refuse_exported(model: Record, origin: str) -> None:
    """Raises CheckpointError, with the line that exports it, for a model of such a family.

    Args:
        model: The record of a whole model.
        origin: The file, for the error message.
    """
    modules = list(_modules(model))
    kinds = {module.kind for _, module in modules}
    family = next((name for kind, name in _BLOCKS.items() if kind in kinds), None)
    if family == "YOLO11" and any(name == _ONE_TO_ONE for name, _ in modules):
        family = "YOLO26"
    ours = any(module.path.startswith("ultralytics.") for _, module in modules)
    if family is None and ours:
        family = "model of Ultralytics"
    if family is None:
        return
    file = Path(origin).name
    line = f"yolo export model={file} format=onnx opset=17"
    if not ours:
        line = f"python export.py --weights {file} --include onnx"
    raise CheckpointError(
        f"{origin}: holds a {family}, which is read as an ONNX file; export it with `{line}` and "
        "give that to model onnx"
    )


def _modules(model: Record) -> Iterator[tuple[str, Record]]:
    """A module and all below it, each with the name that it has in the one above."""
    pending, seen = [("", model)], set[int]()
    while pending:
        name, module = pending.pop()
        yield name, module
        below = module.state.get("_modules")
        if id(module) in seen or not isinstance(below, dict):
            continue
        seen.add(id(module))
        pending.extend((str(k), v) for k, v in below.items() if isinstance(v, Record))
