"""The executor contract: a plugin opens something that runs jobs elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from quantcore.contracts.options import filled
from quantcore.runtime.executor import Executor

API_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """How an executor is opened; what one has to be told, it adds in a class derived from this."""


class ExecutorPlugin(ABC):
    """One entry point of group `quantcore.executors`; made with the entry point's name.

    Attributes:
        options: What it can be told, fields made with `quantcore.contracts.options.option`.
    """

    api_version: ClassVar[int] = API_VERSION
    options: ClassVar[type[ExecutorOptions]] = ExecutorOptions

    def __init__(self, name: str) -> None:
        self.name = name

    def make_options(self, given: Iterable[tuple[str, str]] = (), **own: Any) -> ExecutorOptions:
        """The executor's options from what a person wrote.

        Args:
            given: Names and values.
            own: What quantcore itself sets.

        Raises:
            UsageError: An unknown option, or a value that does not fit.
        """
        return filled(self.options, given, f"executor {self.name!r}", **own)

    def open(self, options: ExecutorOptions | None = None) -> Executor:
        """An executor that is ready for jobs; the caller closes it.

        Raises:
            ExecutorError: What it connects to is not there, or does not fit this quantcore.
            UsageError: An option that it cannot do without was not given.
        """
        return self._open(options or self.options())

    @abstractmethod
    def _open(self, options: ExecutorOptions) -> Executor:
        """As `open`; the options are of the class `options`."""
