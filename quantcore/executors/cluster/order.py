"""What goes to a worker and what comes back, as msgpack: an order, glances at it, a report."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Order:
    """Some pieces of a job for one worker.

    Attributes:
        id: Of this order alone.
        what: Names the job in errors.
        job: Name of the part with its function and arguments.
        wanted: What is about each of the pieces; from `parcel.packed`.
        parts: Small parts that the worker may not have, by name.
        mapped: See `files.Mapped`.
        apart: Whether the job needs a process of its own.
        threads: That it may use; None for all of the worker's.
    """

    id: str
    what: str
    job: str
    wanted: bytes
    parts: dict[str, bytes] = field(default_factory=dict)
    mapped: tuple[tuple[str, str], ...] = ()
    apart: bool = True
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Glance:
    """How far an order is.

    Attributes:
        pieces: Number of each piece that is finished since, among those ordered, and its value's
            bytes.
        doing: What its process says of itself, as `training: 3/200`; empty for nothing.
    """

    pieces: list[tuple[int, bytes]]
    doing: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of an order.

    Attributes:
        pieces: As of a glance; all that no glance is known to have brought.
        finished: Pieces that are finished in all.
        error: Class and message of the quantcore error that ended it; None where it is done.
        died: How its process died, where it did.
        seconds: It took.
        first: Seconds until the first piece was there.
    """

    pieces: list[tuple[int, bytes]]
    finished: int = 0
    error: tuple[str, str] | None = None
    died: str | None = None
    seconds: float = 0.0
    first: float = 0.0
