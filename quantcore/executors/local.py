"""The executor that is there without anything else: processes of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from quantcore.contracts.executor import ExecutorOptions, ExecutorPlugin
from quantcore.contracts.options import option
from quantcore.runtime.executor import Executor, LocalExecutor


@dataclass(frozen=True, kw_only=True)
class LocalOptions(ExecutorOptions):
    """How many processes there are.

    Attributes:
        processes: Jobs that run beside each other.
    """

    processes: Annotated[int, Meta(ge=1)] = option(1, "Jobs beside each other; they share cores.")


class LocalPlugin(ExecutorPlugin):
    """Fresh processes of this machine."""

    options = LocalOptions

    def _open(self, options: ExecutorOptions) -> Executor:
        own = options if isinstance(options, LocalOptions) else LocalOptions()
        return LocalExecutor(own.processes)
