"""Lines through a pair of pipes, with a bound on their length and on how long they may take."""

from __future__ import annotations

import os
import select
import time

#: Bytes of a line; the ranges of the largest networks take a few million.
MOST_BYTES = 1 << 25
_PIECE = 1 << 16


class LineError(Exception):
    """A line did not come, was not taken, or is too long."""


class Lines:
    """Both ends of a conversation with a process that nobody vouches for.

    Args:
        reading: File descriptor to read from.
        writing: File descriptor to write to.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        os.set_blocking(writing, False)
        self._held = bytearray()
        self._searched = 0

    def read(self, patience: float) -> bytes | None:
        """The next line; None once the other side has closed its end.

        Args:
            patience: Seconds to wait for it.

        Raises:
            LineError: It did not come, or has no end.
        """
        end = time.monotonic() + patience
        while True:
            at = self._held.find(b"\n", self._searched)
            if at >= 0:
                line = bytes(self._held[:at])
                del self._held[: at + 1]
                self._searched = 0
                return line
            self._searched = len(self._held)
            if self._searched > MOST_BYTES:
                raise LineError(f"it sent a line of more than {MOST_BYTES} bytes")
            if not select.select([self._reading], [], [], max(0.0, end - time.monotonic()))[0]:
                raise LineError(f"it said nothing for {patience:.0f} seconds")
            piece = os.read(self._reading, _PIECE)
            if not piece:
                return None
            self._held += piece

    def write(self, line: bytes, patience: float) -> None:
        """Sends a line.

        Raises:
            LineError: The other side did not take it in so many seconds.
            BrokenPipeError: It is gone.
        """
        rest = memoryview(line + b"\n")
        while rest:
            if not select.select([], [self._writing], [], patience)[1]:
                raise LineError(f"it took nothing for {patience:.0f} seconds")
            rest = rest[os.write(self._writing, rest[:_PIECE]) :]
