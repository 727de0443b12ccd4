"""How a job is cut into shares for several workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from quantcore.runtime.jobs import Piece

#: A share does at least so many times the work that it takes to begin one.
_WORTH = 3.0

#: Shares for each worker: the faster ones take more, and a lost worker costs less.
_EACH = 2

#: What a job costs as long as none of its kind was seen.
_UNKNOWN_START, _UNKNOWN_PIECE = 2.0, 0.03


@dataclass(frozen=True)
class Cost:
    """What jobs of a kind take.

    Attributes:
        start: Seconds to begin a share: a process, a framework, an engine.
        piece: Seconds for each piece.
    """

    start: float = _UNKNOWN_START
    piece: float = _UNKNOWN_PIECE


def cut(pieces: Sequence[Piece], workers: int, cost: Cost | None = None) -> list[list[int]]:
    """Numbers of the pieces of each share.

    Pieces of a group stay together. Quiet pieces are a share of their own, the last, unless the
    others are not worth cutting: the engine that they measure is open then.

    Args:
        pieces: Of the job.
        workers: That may do it.
        cost: Of jobs of this kind.
    """
    cost = cost or Cost()
    quiet = [number for number, piece in enumerate(pieces) if piece.quiet]
    groups = _grouped(pieces)
    loud = sum(map(len, groups))
    count = min(len(groups), workers * _EACH, math.floor(cost.piece * loud / (_WORTH * cost.start)))
    if workers < 2 or count < 2:
        return [[*(number for group in groups for number in group), *quiet]]
    count -= count % workers if count > workers else 0  # all end at about the same time
    ends = [round(len(groups) * n / count) for n in range(count + 1)]
    shares = [
        [number for group in groups[start:end] for number in group] for start, end in pairwise(ends)
    ]
    return [*shares, *([quiet] if quiet else [])]


def _grouped(pieces: Sequence[Piece]) -> list[list[int]]:
    """Numbers of the pieces that belong together, in order of the first of each."""
    found: dict[object, list[int]] = {}
    for number, piece in enumerate(pieces):
        if not piece.quiet:
            key = ("alone", number) if piece.group is None else piece.group
            found.setdefault(key, []).append(number)
    return list(found.values())
