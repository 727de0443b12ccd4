"""Which family a layer list belongs to; told by its structure, never by its width."""

from __future__ import annotations

from quantcore.errors import CheckpointError
from quantcore_yolo.checkpoint import Checkpoint
from quantcore_yolo.rows import Row

#: Depth and width of the released YOLOv5 models.
_YOLOV5_SIZES: dict[tuple[object, object], str] = {
    (0.33, 0.25): "yolov5n",
    (0.33, 0.5): "yolov5s",
    (0.67, 0.75): "yolov5m",
    (1.0, 1.0): "yolov5l",
    (1.33, 1.25): "yolov5x",
}

#: Family of each model name.
FAMILIES = dict.fromkeys(_YOLOV5_SIZES.values(), "yolov5") | {
    name: name for name in ("yolov7-tiny", "yolov7", "yolov7x")
}


def family_of(rows: tuple[Row, ...]) -> str | None:
    """The family of a layer list: `yolov5`, `yolov7-tiny`, `yolov7`, `yolov7x` or None."""
    modules = {row.module for row in rows}
    if "C3" in modules:
        return "yolov5"
    if "SPPCSPC" in modules:
        # The first block of yolov7x joins five tensors where that of yolov7 joins four.
        joins = next((len(row.sources) for row in rows if row.module == "Concat"), 0)
        return {4: "yolov7", 5: "yolov7x"}.get(joins)
    return "yolov7-tiny" if "SP" in modules else None


def check_family(rows: tuple[Row, ...], checkpoint: Checkpoint, name: str) -> None:
    """Raises CheckpointError where the layer list is not of the family that `name` stands for."""
    found = family_of(rows)
    size = (checkpoint.yaml.get("depth_multiple"), checkpoint.yaml.get("width_multiple"))
    if found == FAMILIES[name]:
        meant = _YOLOV5_SIZES.get(size) if found == "yolov5" else None
        if meant not in (None, name):
            raise CheckpointError(
                f"{checkpoint.origin}: not a {name}: depth {size[0]} and width {size[1]} are those "
                f"of {meant}; try `{meant}`"
            )
        return
    if found is None:
        raise CheckpointError(
            f"{checkpoint.origin}: not a {name}, and no other known family; known are "
            f"{', '.join(FAMILIES)}"
        )
    better = found
    if found == "yolov5":
        better = _YOLOV5_SIZES.get(size, "yolov5n")
    raise CheckpointError(
        f"{checkpoint.origin}: not a {name}: looks like a {found}; try `{better}`"
    )
