"""Two calibration tables held side by side: where the frameworks disagree, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from quantcore.analysis.sqnr import sqnr
from quantcore.errors import TableError
from quantcore.policy.policy import CalibrationPolicy, TensorPolicy
from quantcore.qdq.placement import plan
from quantcore.results.difference import TableDifference, TensorDifference
from quantcore.table.table import CalibrationTable, TensorRange


def difference(first: CalibrationTable, second: CalibrationTable) -> TableDifference:
    """Compares two tables of one float graph, tensor by tensor.

    Raises:
        TableError: The tables belong to different graphs, or quantize a tensor along other axes.
    """
    if first.provenance.fingerprint != second.provenance.fingerprint:
        raise TableError(
            f"the tables were calibrated on different graphs ({first.provenance.model}, "
            f"{first.provenance.fingerprint[:12]} and {second.provenance.model}, "
            f"{second.provenance.fingerprint[:12]}); only tables of one graph can be compared"
        )
    both = [name for name in first.tensors if name in second.tensors]
    found = [_compare(name, first.tensors[name], second.tensors[name]) for name in both]
    found = _with_noise(found, first, second)
    # A stable sort: equal disagreements stay in the graph's order.
    found.sort(key=lambda t: (1 if t.decibels is None else -abs(t.decibels), -t.octaves))
    return TableDifference(
        tuple(found),
        tuple(name for name in first.tensors if name not in second.tensors),
        tuple(name for name in second.tensors if name not in first.tensors),
    )


def _with_noise(
    found: list[TensorDifference], first: CalibrationTable, second: CalibrationTable
) -> list[TensorDifference]:
    """The differences, in dB too where either table kept a histogram."""
    kept = first.kept or second.kept
    if kept is None:
        return found
    outline = kept.outline(first.provenance.model)
    policies: list[Mapping[str, TensorPolicy]] = []
    for table in (first, second):
        policy = CalibrationPolicy.from_dict(table.provenance.policy)
        policies.append({site.tensor: site.policy for site in plan(outline, policy).sites})
    seen = {**(second.kept or kept).tensors, **kept.tensors}

    def noise(tensor: str, which: int) -> float | None:
        table, policy = (first, second)[which], policies[which].get(tensor, TensorPolicy())
        return sqnr(seen[tensor], table.tensors[tensor], policy)

    return [
        replace(one, first_db=noise(one.tensor, 0), second_db=noise(one.tensor, 1))
        if one.tensor in seen and one.role == "activation"
        else one
        for one in found
    ]


def _compare(name: str, first: TensorRange, second: TensorRange) -> TensorDifference:
    if first.axis != second.axis:
        raise TableError(
            f"tensor {name!r}: axis {first.axis} in one table and {second.axis} in the other; "
            "calibrate both with the same granularity"
        )
    a, b = np.atleast_1d(first.amax_array), np.atleast_1d(second.amax_array)
    if a.shape != b.shape:
        raise TableError(
            f"tensor {name!r}: {a.size} channels in one table and {b.size} in the other"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where((a == 0) & (b == 0), 1.0, b / a)
        worst = int(np.argmax(np.abs(np.log2(ratios))))
    return TensorDifference(
        tensor=name,
        role=first.role,
        first=float(a.max()),
        second=float(b.max()),
        ratio=float(ratios[worst]),
    )


def thresholds(tables: Mapping[str, CalibrationTable]) -> list[dict[str, Any]]:
    """The activation thresholds of several backends, in the first table's order.

    Args:
        tables: By backend name.

    Returns:
        For each activation its name, every backend's amax, and its ratio to the first backend's.
    """
    if len(tables) < 2:
        return []
    base, *others = tables
    compared = {name: difference(tables[base], tables[name]) for name in others}
    ratios = {name: {t.tensor: t for t in found.tensors} for name, found in compared.items()}
    rows = []
    for tensor, entry in tables[base].tensors.items():
        if entry.role != "activation" or any(tensor not in r for r in ratios.values()):
            continue
        found = {name: by_tensor[tensor] for name, by_tensor in ratios.items()}
        rows.append(
            {
                "tensor": tensor,
                "amax": {base: entry.amax, **{n: t.second for n, t in found.items()}},
                "ratio": {n: t.to_dict()["ratio"] for n, t in found.items()},
            }
        )
    return rows
