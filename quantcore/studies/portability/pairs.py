"""Two tables side by side: how far their thresholds lie apart, and how they rank the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from quantcore.analysis.difference import difference
from quantcore.analysis.rank import correlation, kendall, spearman
from quantcore.results.estimate import Correlation
from quantcore.results.portability import Pair
from quantcore.table.table import CalibrationTable

#: Thresholds that differ by less, relatively, are the same.
EQUAL = 1e-5

#: Draws behind the interval of a rank correlation; there are many pairs.
_DRAWS = 200

_NOTHING = Correlation(math.nan, math.nan, math.nan)


def pair(
    names: tuple[str, str],
    tables: tuple[CalibrationTable, CalibrationTable],
    layers_db: tuple[Mapping[str, float], Mapping[str, float]],
) -> Pair:
    """Compares two tables of one float graph.

    Only activations are compared: what is found for weights is nearly always the largest
    magnitude, the same everywhere. Layers are ranked by the SQNR of their own output.

    Args:
        names: What the tables are called.
        tables: The tables.
        layers_db: SQNR of each layer under each table.
    """
    found = difference(*map(_activations, tables)).tensors
    ratios = np.asarray([tensor.ratio for tensor in found])
    worst = max(found, key=lambda tensor: tensor.octaves, default=None)
    equal = int((np.abs(ratios - 1) <= EQUAL).sum())
    both = [name for name in layers_db[0] if name in layers_db[1]]
    first, second = (np.asarray([db[name] for name in both]) for db in layers_db)
    enough = len(both) > 1
    return Pair(
        first=names[0],
        second=names[1],
        activations=len(found),
        equal=equal,
        median_ratio=float(np.median(ratios)) if found else math.nan,
        worst_ratio=worst.ratio if worst else math.nan,
        worst_tensor=worst.tensor if worst else "",
        layers=len(both),
        spearman=correlation(first, second, spearman, _DRAWS) if enough else _NOTHING,
        kendall=correlation(first, second, kendall, _DRAWS) if enough else _NOTHING,
    )


def _activations(table: CalibrationTable) -> CalibrationTable:
    """The table without its weights, which two policies may quantize along different axes."""
    found = {name: entry for name, entry in table.tensors.items() if entry.role == "activation"}
    return replace(table, tensors=found)
