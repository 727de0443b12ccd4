"""What both sides write and read: arrays in files, the rest as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quantcore.contracts.capabilities import Capabilities
from quantcore.ir.model import Array
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Plan, Site

Message = dict[str, Any]


def save(path: Path, arrays: Sequence[Array]) -> str:
    """Writes arrays for the other side; the name of the file."""
    np.savez(path, *arrays)
    return str(path)


def load(path: str) -> list[Array]:
    """Reads arrays of the other side."""
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]


def plain(value: Any) -> Any:
    """A field of Capabilities as JSON holds it."""
    if isinstance(value, Mapping):
        return {key: sorted(names) for key, names in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def capabilities(data: Message) -> Capabilities:
    """Capabilities from their `plain` fields."""
    kinds = Capabilities({}, {})
    values: dict[str, Any] = {}
    for key, value in data.items():
        kind = getattr(kinds, key)
        if isinstance(kind, Mapping):
            values[key] = {name: frozenset(taken) for name, taken in value.items()}
        else:
            values[key] = type(kind)(value)
    return Capabilities(**values)


def tupled(cls: type[Any], data: Message) -> Any:
    """A dataclass whose sequences, nested or not, are tuples."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value

    return cls(**{key: tuples(value) for key, value in data.items()})


def written(plan: Plan) -> Message:
    """What a backend needs of a plan."""
    return {
        "sites": [{**asdict(site), "policy": site.policy.to_dict()} for site in plan.sites],
        "implementation": plan.implementation,
        "arithmetic": plan.arithmetic,
    }


def planned(data: Message) -> Plan:
    """The plan that was written."""
    sites = [
        tupled(Site, {**site, "policy": TensorPolicy().override(site["policy"], "policy")})
        for site in data["sites"]
    ]
    return Plan(tuple(sites), (), data["implementation"], data["arithmetic"])
