"""Two calibration tables held side by side: where the frameworks disagree, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quantcore.analysis.sqnr import sqnr
from quantcore.errors import TableError
from quantcore.policy import CalibrationPolicy, TensorPolicy
from quantcore.qdq.placement import plan
from quantcore.table import CalibrationTable, TensorRange


@dataclass(frozen=True)
class TensorDifference:
    """One tensor in two tables.

    Attributes:
        tensor: Name in the float graph.
        role: `activation` or `weight`.
        first: amax in the first table; per channel its largest.
        second: Likewise in the second.
        ratio: second / first; per channel that of the channel that differs most. 1 where both are
            zero, infinite where only the first is.
        first_db: SQNR of the tensor coded with the first table's range, see
            `quantcore.analysis.sqnr`; None where no histogram is at hand. Both are found on one
            histogram: the first table's, or the second's where the first kept none.
        second_db: Likewise with the second table's range.
    """

    tensor: str
    role: str
    first: float
    second: float
    ratio: float
    first_db: float | None = None
    second_db: float | None = None

    @property
    def decibels(self) -> float | None:
        """SQNR won in the second table against the first, in dB; negative where it is noisier."""
        if self.first_db is None or self.second_db is None:
            return None
        return 0.0 if self.first_db == self.second_db else self.second_db - self.first_db

    @property
    def octaves(self) -> float:
        """Size of the disagreement: |log2(ratio)|."""
        return abs(math.log2(self.ratio)) if 0 < self.ratio < math.inf else math.inf

    def to_dict(self) -> dict[str, Any]:
        """JSON form; what is infinite is None."""
        return {
            "tensor": self.tensor,
            "role": self.role,
            "first": self.first,
            "second": self.second,
            "ratio": _finite(self.ratio),
            "first_db": _finite(self.first_db),
            "second_db": _finite(self.second_db),
            "decibels": _finite(self.decibels),
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class TableDifference:
    """Two tables.

    Attributes:
        tensors: What both hold, the largest disagreement first: in dB where a histogram tells it,
            then the rest by the ratio of their ranges.
        only_first: Tensors that the second table lacks.
        only_second: Tensors that the first table lacks.
    """

    tensors: tuple[TensorDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def has_noise(self) -> bool:
        """Whether any disagreement is known in dB."""
        return any(tensor.decibels is not None for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "tensors": [tensor.to_dict() for tensor in self.tensors],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }


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
    return TensorDifference(name, first.role, float(a.max()), float(b.max()), float(ratios[worst]))


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
