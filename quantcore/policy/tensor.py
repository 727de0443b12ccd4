"""How the range of one tensor is found and coded: observers, their parameters, and their YAML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from quantcore.errors import PolicyError
from quantcore.policy.code import INT8, Code
from quantcore.policy.reading import refuse_unknown, suggest
from quantcore.showing import shown

#: Every observer the policy language knows, with its parameters and their units. What an observer
#: means in a framework is the backend's business; which ones it has is in its capabilities.
OBSERVERS: Mapping[str, frozenset[str]] = {
    "max": frozenset(),
    "percentile": frozenset({"percentile", "bins"}),  # percentile: 0..100
    "entropy": frozenset({"bins", "start_bin", "stride"}),
    "mse": frozenset({"bins", "start_bin", "stride"}),
    "moving_average": frozenset({"momentum"}),  # momentum: weight of the past, 0..1
}
#: Bins take memory: 8 bytes each for every tensor.
_MOST_BINS = 1 << 20
GRANULARITIES = ("per_tensor", "per_channel")
#: The parameter that a bare number after an observer's name is.
_MAIN = {"percentile": "percentile", "moving_average": "momentum"}


def _check_parameter(name: str, value: float) -> None:
    """Refuses a parameter that is not a number or lies outside its unit."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not abs(value) <= sys.float_info.max:
        raise PolicyError(f"{name} must be a number, not {shown(value)}")
    if name == "percentile" and not 0 < value <= 100:
        raise PolicyError(f"percentile must lie in (0, 100], not {shown(value)}")
    if name == "momentum" and not 0 <= value < 1:
        raise PolicyError(f"momentum must lie in [0, 1), not {shown(value)}")
    if name in ("bins", "start_bin", "stride") and (value < 1 or value != int(value)):
        raise PolicyError(f"{name} must be a whole number from 1, not {shown(value)}")
    if name in ("bins", "start_bin", "stride") and value > _MOST_BINS:
        raise PolicyError(f"{name} can be {_MOST_BINS} at most, not {shown(value)}")


@dataclass(frozen=True)
class TensorPolicy:
    """How the range of one tensor is found and coded.

    Attributes:
        observer: One of `OBSERVERS`.
        parameters: The observer's parameters that were set, sorted by name.
        code: What its values are written in.
        symmetric: Zero point 0 (True), or an affine code.
        granularity: `per_tensor` or `per_channel`.
    """

    observer: str = "max"
    parameters: tuple[tuple[str, float], ...] = ()
    code: Code = INT8
    symmetric: bool = True
    granularity: str = "per_tensor"

    def __post_init__(self) -> None:
        """Raises PolicyError for an unknown observer or parameter, or one out of its unit."""
        if not isinstance(self.observer, str) or self.observer not in OBSERVERS:
            raise PolicyError(
                f"unknown observer {shown(self.observer)}{suggest(str(self.observer), OBSERVERS)}; "
                f"know {', '.join(OBSERVERS)}"
            )
        for name, value in self.parameters:
            if name not in OBSERVERS[self.observer]:
                allowed = ", ".join(sorted(OBSERVERS[self.observer])) or "none"
                raise PolicyError(
                    f"observer {self.observer!r} has no parameter {name!r}; it takes: {allowed}"
                )
            _check_parameter(name, value)
        if not isinstance(self.code, Code):
            raise PolicyError(f"code must be a Code such as Code(bits=4), not {shown(self.code)}")
        if not isinstance(self.symmetric, bool):
            raise PolicyError(f"symmetric must be true or false, not {shown(self.symmetric)}")
        if self.granularity not in GRANULARITIES:
            raise PolicyError(
                f"granularity must be {' or '.join(GRANULARITIES)}, not {shown(self.granularity)}"
            )

    @property
    def bits(self) -> int:
        """Width of the code."""
        return self.code.bits

    def parameter(self, name: str, default: float) -> float:
        """The value of an observer parameter, or the default where the policy is silent."""
        return dict(self.parameters).get(name, default)

    def override(self, changes: Mapping[str, Any], where: str) -> TensorPolicy:
        """This policy with the keys of a YAML mapping laid over it.

        Args:
            changes: Keys of a TensorPolicy and, flat beside them, of its observer's parameters.
            where: Path of the mapping in the policy, for messages.

        Raises:
            PolicyError: An unknown key, or a value that the policy cannot hold.
        """
        own = {f.name for f in fields(self)} - {"parameters"}
        parameters = frozenset().union(*OBSERVERS.values())
        refuse_unknown(changes, own | parameters | {"bits"}, where)
        values = {k: v for k, v in changes.items() if k in own}
        # Parameters belong to their observer: another observer starts without them.
        keep = values.get("observer", self.observer) == self.observer
        given = dict(self.parameters) if keep else {}
        given.update({k: v for k, v in changes.items() if k in parameters})
        try:
            values |= _code(changes)
            return replace(self, **values, parameters=tuple(sorted(given.items())))
        except (PolicyError, TypeError) as error:
            raise PolicyError(f"{where}: {error}") from None

    @property
    def label(self) -> str:
        """A short name that tells it from others: `percentile-99.99`, `mse-4bit`."""
        main = _MAIN.get(self.observer)
        parts = [self.observer]
        parts += [f"{v}" if k == main else f"{k}-{v}" for k, v in self.parameters]
        parts += [f"{self.bits}bit"] * (self.bits != 8)
        parts += ["affine"] * (not self.symmetric)
        parts += ["per-channel"] * (self.granularity == "per_channel")
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As in YAML: parameters flat beside the other keys."""
        return {
            "observer": self.observer,
            **dict(self.parameters),
            "bits": self.bits,
            "symmetric": self.symmetric,
            "granularity": self.granularity,
        }


def _code(changes: Mapping[str, Any]) -> dict[str, Code]:
    """The code that a mapping names (`code: int4`) or gives the width of (`bits: 4`), if any."""
    if "code" in changes and "bits" in changes:
        raise PolicyError("give `code` or `bits`, not both; `bits: 4` is `code: int4`")
    if "code" in changes:
        return {"code": Code.named(changes["code"])}
    return {"code": Code(bits=changes["bits"])} if "bits" in changes else {}


def observer_list(data: Any, common: TensorPolicy) -> tuple[TensorPolicy, ...]:
    """The policies that `observers:` lists.

    An entry is a name (`max`), a name with its main parameter (`percentile: 99.99`) or with several
    (`mse: {bins: 1024}`), or a mapping as under `activations` (`{observer: mse, bits: 4}`).

    Args:
        data: The list.
        common: What the entries lay themselves over.

    Raises:
        PolicyError: Naming the entry.
    """
    if not isinstance(data, list | tuple) or not data:
        raise PolicyError("observers: must be a list such as [max, percentile: 99.99, mse]")
    return tuple(
        common.override(_spelled_out(entry, f"observers[{index}]"), f"observers[{index}]")
        for index, entry in enumerate(data)
    )


def _spelled_out(entry: Any, where: str) -> Mapping[str, Any]:
    """An entry of `observers` as under `activations`."""
    if isinstance(entry, str):
        return {"observer": entry}
    if isinstance(entry, Mapping) and "observer" in entry:
        return entry
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise PolicyError(
            f"{where}: must be a name, or one with its parameters such as `percentile: 99.99` or "
            f"`mse: {{bins: 1024}}`, not {shown(entry)}"
        )
    name, value = next(iter(entry.items()))
    if value is None:
        return {"observer": name}
    if isinstance(value, Mapping):
        return {**value, "observer": name}
    if name in OBSERVERS and name not in _MAIN:
        raise PolicyError(f"{where}: name the parameter, `{name}: {{PARAMETER: {value}}}`")
    return {"observer": name, _MAIN.get(name, "percentile"): value}
