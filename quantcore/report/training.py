"""The losses of a training as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from quantcore.report.plots import render, scale_of, ticks_of
from quantcore.results.training import TrainingRecord

_Place = Callable[[float], float]
_SERIES = (("heads", "#2f6f9f"), ("features", "#a40e26"))
#: Steps that the thick line is a mean of, as a share of all.
_SMOOTH = 0.1
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 900, 60, 430


def losses(record: TrainingRecord, model: str) -> str:
    """The loss of each step, thin, and its running mean, thick; the axis is logarithmic."""
    every = {name: np.asarray(getattr(record.losses, name)) for name, _ in _SERIES}
    shown = [v for values in every.values() for v in values if np.isfinite(v) and v > 0]
    ends = [math.log10(v) for v in (min(shown), max(shown))] if shown else [-1.0, 0.0]
    y_ticks = ticks_of(*ends)
    steps = len(record.losses.heads)
    x_ticks = ticks_of(0, max(steps, 1))
    x = scale_of(x_ticks, _LEFT, _RIGHT)
    y = scale_of(y_ticks, _BOTTOM, _TOP, clip=True)
    lines = []
    for name, color in _SERIES:
        values = every[name]
        if not (values > 0).any():
            continue
        lines += [
            {"points": _points(values, x, y), "color": color, "width": 0.6, "name": ""},
            {"points": _points(_smooth(values), x, y), "color": color, "width": 2.2, "name": name},
        ]
    return render(
        "losses.svg.j2",
        title=f"{model}: training with {record.backend}",
        subtitle=f"{steps} steps on {len(record.image_ids)} images"
        + (f"; {record.ended}" if record.ended else ""),
        lines=lines,
        x_ticks=[{"at": x(t), "text": f"{t:g}"} for t in x_ticks],
        y_ticks=[{"at": y(t), "text": f"{10**t:.2g}"} for t in y_ticks],
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
    )


def _smooth(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The mean of each value and those around it."""
    values = np.asarray(values)
    reach = max(1, round(len(values) * _SMOOTH / 2))
    parts = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return np.asarray([part.mean() for part in parts])


def _points(values: np.ndarray, x: _Place, y: _Place) -> str:
    places = ((n, v) for n, v in enumerate(values) if np.isfinite(v) and v > 0)
    return " ".join(f"{x(n)},{y(math.log10(v))}" for n, v in places)
