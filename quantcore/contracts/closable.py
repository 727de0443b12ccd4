"""What may hold something until it is closed."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

_Closing = TypeVar("_Closing", bound="Closable")


class Closable:
    """What may hold something until it is closed; a context manager."""

    def close(self) -> None:
        """Frees what is held; safe to call twice."""

    def __enter__(self: _Closing) -> _Closing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
