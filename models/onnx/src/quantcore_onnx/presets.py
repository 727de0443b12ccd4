"""Presets by name, and which of them a graph's outputs call for."""

from __future__ import annotations

from pathlib import Path

from quantcore.errors import CheckpointError, UsageError
from quantcore_onnx.anchor_free import END_TO_END, YOLOV8
from quantcore_onnx.anchored import YOLOX, anchored
from quantcore_onnx.distributions import NANODET, PICODET
from quantcore_onnx.ends import Ends, Heads, Preset

PRESETS: dict[str, Preset] = {
    "yolov5": anchored("yolov5"),
    "yolov7": anchored("yolov7"),
    "yolox": YOLOX,
    "yolov8": YOLOV8,
    "end2end": END_TO_END,
    "picodet": PICODET,
    "nanodet": NANODET,
}


def check_preset(name: str, preset: str | None) -> None:
    """Raises UsageError for a preset that there is not; `name` is the model's."""
    if preset is not None and preset not in PRESETS:
        raise UsageError(_needs(name, f"not {preset!r}"))


def find_heads(ends: Ends, name: str, preset: str | None, path: Path) -> Heads:
    """Finds the predictions among a graph's outputs.

    Args:
        ends: The graph.
        name: The model's, for error messages.
        preset: What the person says of the file, or None.
        path: The file, for error messages.

    Raises:
        CheckpointError: The outputs are not those of the preset, or of none.
        UsageError: They do not say which preset they are of.
    """
    found = {key: heads for key, each in PRESETS.items() if (heads := each.find(ends))}
    if preset is not None:
        if preset in found:
            return found[preset]
        raise _unfit(ends, preset, list(found), path)
    sure = [heads for heads in found.values() if heads.sure]
    if sure:
        return sure[0]
    if found:
        fits = " or ".join(found)
        raise UsageError(_needs(name, f"{path} carries no description, its outputs fit {fits}"))
    raise CheckpointError(
        f"{path}: its outputs are those of no detector that is known here: {ends.in_words()}; "
        f"known are {', '.join(PRESETS)}: export the model so that it ends like one of them"
    )


def _needs(name: str, why: str) -> str:
    return (
        f"model {name} needs a preset for pre- and post-processing, one of {', '.join(PRESETS)}; "
        f"{why}"
    )


def _unfit(ends: Ends, preset: str, fits: list[str], path: Path) -> CheckpointError:
    told = "" if ends.classes is None else f" and names {ends.classes} classes"
    better = f"; those fit preset {' or '.join(fits)}" if fits else ""
    return CheckpointError(
        f"{path}: preset {preset} needs {PRESETS[preset].wanted}; this graph has "
        f"{ends.in_words()}{told}{better}"
    )
