"""Two calibration tables side by side as a picture: an SVG file that any browser shows."""

from __future__ import annotations

import math

from quantcore.report import figures
from quantcore.results.difference import TableDifference, TensorDifference

#: A picture shows the worst tensors; the terminal and the JSON have more.
SHOWN = 40


def difference(found: TableDifference, first: str, second: str, shown: int = SHOWN) -> str:
    """How two tables' ranges compare and, where known, their noise; one row a tensor."""
    tensors = found.tensors[:shown]
    more = f", the first {shown} of {len(found.tensors)}" if len(found.tensors) > shown else ""
    columns = [("amax, second / first", [_octaves(tensor) for tensor in tensors])]
    if found.has_noise:
        columns.append(("SQNR, second - first, dB", [_decibels(tensor) for tensor in tensors]))
    logs = (True, False)[: len(columns)]
    drawing = figures.panels([t.tensor for t in tensors], columns, logs)
    subtitle = (
        "the largest disagreement first"
        + (" (in dB of quantization noise, then by range)" if found.has_noise else "")
        + more
    )
    return figures.titled(drawing, f"{second} against {first}", subtitle)


def _octaves(tensor: TensorDifference) -> float | None:
    """log2 of the ratio, at most 16 either way."""
    if not 0 < tensor.ratio < math.inf:
        return 16.0 if tensor.ratio else -16.0
    return min(max(math.log2(tensor.ratio), -16.0), 16.0)


def _decibels(tensor: TensorDifference) -> float | None:
    value = tensor.decibels
    return None if value is None else min(max(value, -100.0), 100.0)
