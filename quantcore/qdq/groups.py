"""Tensors that share one range: how their ranges become one."""

from __future__ import annotations

from collections.abc import Mapping

from quantcore.errors import RangeError
from quantcore.qdq.placement import Plan
from quantcore.table.table import TensorRange


def merged(plan: Plan, ranges: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    """The ranges with those of each group of the plan made one: the widest that any of it needs.

    A table keeps what was observed, tensor by tensor, so that it serves any placement; this is
    applied where a table is used: at insertion, and before a backend simulates.

    Args:
        plan: Whose sites name their groups.
        ranges: By tensor; a group's tensors that are missing are left to the caller to miss.

    Raises:
        RangeError: A tensor of a group has a range per channel.
    """
    groups: dict[str, list[str]] = {}
    for site in plan.sites:
        if site.group is not None and site.tensor in ranges:
            groups.setdefault(site.group, []).append(site.tensor)
    found = dict(ranges)
    for group, tensors in groups.items():
        one = _widest(group, [ranges[tensor] for tensor in tensors])
        found.update(dict.fromkeys(tensors, one))
    return found


def _widest(group: str, ranges: list[TensorRange]) -> TensorRange:
    low: list[float] = []
    high: list[float] = []
    for one in ranges:
        if isinstance(one.min, tuple) or isinstance(one.max, tuple):
            raise RangeError(f"group {group!r}: per-channel ranges cannot be shared")
        low.append(one.min)
        high.append(one.max)
    return TensorRange(ranges[0].role, min(low), max(high))
