"""Calibration tables: framework-neutral ranges by tensor name, with where they came from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.errors import RangeError, TableError
from quantcore.ir.values import listed, mapping, number
from quantcore.reading import parse_json, read_text
from quantcore.runtime.files import write_whole
from quantcore.showing import shown
from quantcore.table.kept import KeptHistograms

FORMAT = "quantcore.table/1"
ROLES = ("activation", "weight")

#: A table of YOLOv7 with its histograms has 30 MB.
_MOST_BYTES = 1 << 28
#: Longer than the names of models and backends, and than a fingerprint.
_LONGEST_NAME = 200

Values = float | tuple[float, ...]


@dataclass(frozen=True)
class TensorRange:
    """The range of one tensor that its integer code must span.

    Ranges, not scales: scale and zero point are derived in `quantcore.qdq.scales` alone.

    Attributes:
        role: `activation` or `weight`.
        min: Lower end; per channel a tuple.
        max: Upper end; per channel a tuple.
        axis: Channel axis of a per-channel range, None per tensor.
        block: How many values along `axis` share one end, for codes with a scale a block; None
            where a whole channel does. Tables hold it, nothing writes such a range yet.
    """

    role: str
    min: Values
    max: Values
    axis: int | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        """Raises RangeError for NaN, infinite or reversed ends, or a shape that does not fit."""
        if self.role not in ROLES:
            raise RangeError(f"role must be {' or '.join(ROLES)}, not {shown(self.role)}")
        axis = self.axis
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int) or axis < 0):
            raise RangeError(f"axis must be a whole number from 0 or none, not {shown(axis)}")
        _check_block(self.block, axis)
        low, high = _tuple(self.min), _tuple(self.max)
        if isinstance(self.min, tuple) != isinstance(self.max, tuple) or len(low) != len(high):
            raise RangeError("min and max must have the same shape")
        if isinstance(self.min, tuple) != (self.axis is not None):
            raise RangeError("a per-channel range needs an axis, a per-tensor range has none")
        for index, (a, b) in enumerate(zip(low, high, strict=True)):
            where = f" in channel {index}" if self.axis is not None else ""
            if not (math.isfinite(a) and math.isfinite(b)):
                raise RangeError(f"the range [{a}, {b}]{where} is not finite")
            if a > b:
                raise RangeError(f"the range [{a}, {b}]{where} is reversed or negative")

    @classmethod
    def symmetric(
        cls,
        role: str,
        amax: float | Iterable[float],
        axis: int | None = None,
        block: int | None = None,
    ) -> TensorRange:
        """The range [-amax, amax]; `amax` is one number, or one for each channel of `axis`."""
        if axis is None:
            value = float(amax)  # type: ignore[arg-type]
            return cls(role, -value, value, axis, block)
        values = tuple(float(a) for a in amax)  # type: ignore[union-attr]
        return cls(role, tuple(-v for v in values), values, axis, block)

    @property
    def amax(self) -> Values:
        """Largest magnitude in the range; per channel a tuple."""
        pairs = zip(_tuple(self.min), _tuple(self.max), strict=True)
        values = tuple(max(abs(a), abs(b)) for a, b in pairs)
        return values if self.axis is not None else values[0]

    @property
    def amax_array(self) -> npt.NDArray[np.float64]:
        """`amax` as a 0-d or 1-d array."""
        return np.asarray(self.amax, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        ends = {"min": self.min, "max": self.max, "amax": self.amax}
        block = {} if self.block is None else {"block": self.block}
        return {"role": self.role, **ends, "axis": self.axis, **block}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorRange:
        """Reads the JSON form; `amax` alone stands for a symmetric range."""
        axis = data.get("axis")
        if "min" not in data and "max" not in data:
            return cls.symmetric(data["role"], _ends(data["amax"], axis), axis, data.get("block"))
        low, high = (_ends(data[key], axis) for key in ("min", "max"))
        return cls(data["role"], low, high, axis, data.get("block"))


@dataclass(frozen=True)
class Provenance:
    """What a table was made from; the same provenance gives the same table.

    Attributes:
        model: Model name.
        fingerprint: `FloatModel.fingerprint`.
        backend: Backend name.
        versions: Of the framework and of quantcore.
        policy: `CalibrationPolicy.to_dict()`.
        image_ids: In the order they were seen.
        recalibrated_from: Where the ranges were found again in kept histograms: `policy` and
            `sha256` of the table that held them; else empty.
        trained_from: Where the ranges were learned with the weights: `fingerprint` of the model
            and `sha256` of the table that training started from; else empty.
    """

    model: str
    fingerprint: str
    backend: str
    versions: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    image_ids: tuple[int, ...] = ()
    recalibrated_from: Mapping[str, Any] = field(default_factory=dict)
    trained_from: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        data = asdict(self)
        for key in ("recalibrated_from", "trained_from"):
            if not data[key]:
                del data[key]
        return data


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges by tensor name in the float graph, and their provenance.

    Attributes:
        tensors: The ranges.
        provenance: What they were made from.
        kept: Histograms of the activations, where they were asked for.
    """

    tensors: Mapping[str, TensorRange]
    provenance: Provenance
    kept: KeptHistograms | None = None

    def to_json(self) -> str:
        """The file's text; floats are written so that they read back bit for bit."""
        data = {
            "format": FORMAT,
            "provenance": self.provenance.to_dict(),
            "tensors": {name: entry.to_dict() for name, entry in self.tensors.items()},
        }
        if self.kept is not None:
            data["histograms"] = self.kept.to_dict()
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    @cached_property
    def sha256(self) -> str:
        """Of the file's text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes the table whole or not at all; raises OutputError."""
        write_whole(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Reads a table.

        Raises:
            TableError: Not a table; names the file and what is missing.
            RangeError: An entry's range is unusable; names the file and the tensor.
        """
        return cls.from_json(read_text(path, _MOST_BYTES, TableError), path)

    @classmethod
    def from_json(cls, text: str, path: Path) -> CalibrationTable:
        """The table of a file's text; `path` names the file in errors. Raises as `load`."""
        try:
            data = parse_json(text, infinite=True)
        except ValueError as error:
            raise TableError(f"{path}: cannot read the calibration table: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise TableError(
                f"{path}: not a calibration table of format {FORMAT}; "
                "`quantcore calibrate` writes one"
            )
        try:
            provenance = _provenance(data["provenance"])
            entries = mapping(data["tensors"])
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{path}: incomplete calibration table: {shown(error)}") from None
        tensors = {}
        for name, entry in entries.items():
            try:
                tensors[name] = TensorRange.from_dict(entry)
            except RangeError as error:
                raise RangeError(
                    f"{path}: tensor {shown(name)}: {error}; calibrate again"
                ) from None
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise TableError(
                    f"{path}: tensor {shown(name)}: malformed entry: {shown(error)}"
                ) from None
        try:
            kept = KeptHistograms.from_dict(data["histograms"]) if "histograms" in data else None
        except TableError as error:
            raise TableError(f"{path}: {error}; calibrate again with --keep-histograms") from None
        return cls(tensors, provenance, kept)


def _ends(value: Any, axis: Any) -> Values:
    """Ends of a range as JSON holds them; raises TypeError, or ValueError for what is no range."""
    if axis is None:
        return _end(value)
    return tuple(map(_end, listed(list(value) if isinstance(value, tuple) else value)))


def _end(value: Any) -> float:
    """One end, which may be NaN or infinite: `TensorRange` tells the channel."""
    infinite = isinstance(value, float) and not math.isfinite(value)
    return float(value if infinite else number(value))


def _provenance(data: Mapping[str, Any]) -> Provenance:
    """Reads the JSON form; raises KeyError, TypeError or ValueError where it is malformed."""
    for key in ("model", "fingerprint", "backend"):
        if len(data[key]) > _LONGEST_NAME or not isinstance(data[key], str):
            raise TypeError(f"{key} must be a text")
    for key in ("versions", "policy", "recalibrated_from", "trained_from"):
        if not isinstance(data.get(key, {}), dict):
            raise TypeError(f"{key} must be a mapping")
    json.dumps(data, allow_nan=False)  # it is written again as it is
    ids = listed(data.get("image_ids", []))
    if not all(type(one) is int and abs(one) < 1 << 63 for one in ids):
        raise TypeError("image_ids must be whole numbers")
    if not all(isinstance(version, str) for version in data.get("versions", {}).values()):
        raise TypeError("versions must be texts")
    return Provenance(**{**data, "image_ids": tuple(ids)})


def _check_block(block: Any, axis: int | None) -> None:
    if block is None:
        return
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise RangeError(f"block must be a whole number from 1 or none, not {shown(block)}")
    if axis is None:
        raise RangeError("a range with blocks needs the axis that they lie along")


def _tuple(values: Values) -> tuple[float, ...]:
    return values if isinstance(values, tuple) else (values,)
