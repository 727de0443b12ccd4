"""A training that was interrupted goes on: its state on disk, whole or not at all."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantcore.contracts.training import State
from quantcore.runtime.files import write_whole

_KEY, _LOSSES = "!key", "!losses"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stood.

    Attributes:
        losses: Heads and features of every step so far, n x 2; their number is the next step's.
        state: Of the run.
    """

    losses: npt.NDArray[np.float64]
    state: State

    def save(self, path: Path, key: str) -> None:
        """Writes it, with the content key of the training; raises OutputError."""
        file = io.BytesIO()
        # Names of tensors are no file names: they are written beside the arrays.
        names = sorted(self.state)
        arrays: dict[str, npt.NDArray[Any]] = {f"{n}": self.state[k] for n, k in enumerate(names)}
        arrays |= {_KEY: np.array(key), _LOSSES: self.losses, "!names": np.array(names)}
        np.savez(file, **arrays)  # type: ignore[arg-type]
        write_whole(path, file.getvalue())

    @classmethod
    def load(cls, path: Path, key: str) -> Checkpoint | None:
        """Reads it; None where there is none, or not of this training."""
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file[_KEY]) != key:
                    return None
                names = file["!names"].tolist()
                return cls(file[_LOSSES], {k: file[f"{n}"] for n, k in enumerate(names)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
