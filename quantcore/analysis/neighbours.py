"""Graphs that hardly differ from a quantized one: what a table loses, not what one draw of it does.

The mAP of a quantized graph moves by up to 0.007 when its scales move by one unit in the last place
(docs/adr/0001), which is more than good policies and frameworks differ by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from quantcore.table.table import CalibrationTable, TensorRange, Values

#: Standard deviation of the logarithm of a change.
CHANGE = 0.01


def neighbours(table: CalibrationTable, count: int, seed: int = 0) -> Iterator[CalibrationTable]:
    """Tables in which every activation's range is changed at random by about 1 %.

    The same seed changes the tensors of every table of a plan alike, so that tables are compared
    under equal changes.

    Args:
        table: Left untouched.
        count: How many.
        seed: Of the changes.
    """
    random = np.random.default_rng(seed)
    for _ in range(count):
        moved = {
            name: _times(found, float(np.exp(random.normal(0, CHANGE))))
            if found.role == "activation"
            else found
            for name, found in table.tensors.items()
        }
        yield replace(table, tensors=moved)


def _times(found: TensorRange, factor: float) -> TensorRange:
    return replace(found, min=_scaled(found.min, factor), max=_scaled(found.max, factor))


def _scaled(end: Values, factor: float) -> Values:
    return tuple(factor * v for v in end) if isinstance(end, Sequence) else factor * end
