"""What both sides write and read: arrays in files, the rest as JSON."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.contracts.capabilities import Capabilities
from quantcore.ir.model import Array
from quantcore.ir.values import whole
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.table.table import TensorRange

Message = dict[str, Any]

#: Bytes of activations that travel at once: what either side holds of a network's, beside one.
_PIECE = 32 * 2**20


def save(path: Path, arrays: Sequence[Array]) -> str:
    """Writes arrays for the other side; the name of the file."""
    np.savez(path, *arrays)
    return str(path)


def load(path: Path | str) -> list[Array]:
    """Reads arrays of the other side; raises ValueError where they are more than the file."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > Path(path).stat().st_size:
            raise ValueError(f"{path}: its arrays are larger than the file")
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]


class Pieces:
    """Activations on their way to the other side, some in a file at a time.

    Two files take turns, so that one is read over there while the other is written here.

    Args:
        folder: Where the files lie.
        ask: Offers a file to the other side.
        answered: Waits until the file that was offered last has been read.
    """

    def __init__(
        self, folder: Path, ask: Callable[[Message], None], answered: Callable[[], object]
    ) -> None:
        self._paths = (folder / "shown.0", folder / "shown.1")
        self._ask = ask
        self._answered = answered
        self._turn = 0
        self._offered = False
        self._entries: list[tuple[str, tuple[int, ...]]] = []
        self._file = self._paths[0].open("wb")

    def add(self, tensor: str, values: npt.NDArray[np.floating]) -> None:
        """Takes in the float32 values of an activation, which may change once this returns."""
        values.tofile(self._file)
        self._entries.append((tensor, values.shape))
        if self._file.tell() >= _PIECE:
            self._offer()
            self._turn = 1 - self._turn
            self._file = self._paths[self._turn].open("wb")

    def end(self) -> None:
        """Offers what is left, and waits until all has been read."""
        self._offer()
        self._wait()

    def _offer(self) -> None:
        self._file.close()
        self._wait()
        self._ask({"path": str(self._paths[self._turn]), "entries": self._entries})
        self._offered, self._entries = True, []

    def _wait(self) -> None:
        if self._offered:
            self._answered()
        self._offered = False


def pieces(path: Path, entries: Iterable[Any]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """The activations in a file of the other side, one after the other.

    Raises:
        ValueError: They are more than the file.
    """
    left = path.stat().st_size
    with path.open("rb") as file:
        for tensor, shape in entries:
            count = math.prod(map(whole, shape))
            left -= 4 * count
            if left < 0:
                raise ValueError(f"{path}: its activations are larger than the file")
            yield tensor, np.fromfile(file, np.float32, count).reshape(shape)


def plain(value: Any) -> Any:
    """A field of Capabilities as JSON holds it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: sorted(names) for key, names in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def capabilities(data: Mapping[str, Any]) -> Capabilities:
    """Capabilities from their `plain` fields."""
    kinds = Capabilities({}, {})
    values: dict[str, Any] = {}
    for key, value in data.items():
        kind = getattr(kinds, key)
        if key == "operators":
            values[key] = None if value is None else frozenset(value)
        elif isinstance(kind, Mapping):
            values[key] = {name: frozenset(taken) for name, taken in value.items()}
        else:
            values[key] = type(kind)(value)
    return Capabilities(**values)


def tupled(cls: type[Any], data: Mapping[str, Any]) -> Any:
    """A dataclass whose sequences, nested or not, are tuples."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value

    return cls(**{key: tuples(value) for key, value in data.items()})


def written(sites: Iterable[Site]) -> list[Message]:
    """Sites as JSON holds them."""
    return [{**asdict(site), "policy": site.policy.to_dict()} for site in sites]


def sites(data: Iterable[Message]) -> tuple[Site, ...]:
    """The sites that were written."""
    return tuple(
        tupled(Site, {**site, "policy": TensorPolicy().override(site["policy"], "policy")})
        for site in data
    )


def ranges(data: Mapping[str, Any]) -> dict[str, TensorRange]:
    """Ranges from their JSON form."""
    return {tensor: TensorRange.from_dict(entry) for tensor, entry in data.items()}
