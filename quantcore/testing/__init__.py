"""The conformance kit: what a plugin author imports to hold a backend to the contract.

    import pytest
    from quantcore.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def backend(self):
            return "my-backend"

Faults of the framework itself that are known go into `known_faults`: check name -> reason; they are
expected to fail, and a check that passes again fails the suite, so that the entry gets removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from quantcore.errors import UsageError
from quantcore.runtime.executor import Executor
from quantcore.testing.checks import CHECKS, Check
from quantcore.testing.executors import PROMISES
from quantcore.testing.kit import CheckOutcome, run
from quantcore.testing.under_test import BackendUnderTest

try:
    import pytest
except ImportError:  # the command line runs the checks without it
    pytest = None  # type: ignore[assignment]

__all__ = [
    "CHECKS",
    "PROMISES",
    "BackendConformance",
    "BackendUnderTest",
    "Check",
    "CheckOutcome",
    "ExecutorConformance",
    "run",
]

if pytest is None:

    class BackendConformance:
        """Stands in where pytest is missing."""

        def __init_subclass__(cls) -> None:
            raise UsageError("the conformance kit's test class needs pytest; pip install pytest")

    ExecutorConformance = BackendConformance
else:

    class BackendConformance:  # type: ignore[no-redef]
        """A plugin's whole test suite; a subclass gives the fixture `backend`, its name."""

        known_faults: ClassVar[Mapping[str, str]] = {}

        @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
        def test_promise(self, check: Check, backend: str, request: Any) -> None:
            """Runs one check."""
            under_test = BackendUnderTest(backend)
            if not check.applies(under_test.plugin):
                pytest.skip(f"{backend} does not declare {check.tier}")
            if check.name in self.known_faults:
                reason = self.known_faults[check.name]
                request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
            check.run(under_test)

    class ExecutorConformance:  # type: ignore[no-redef]
        """An executor's whole test suite; a subclass gives the fixture `executor`, an open one."""

        @pytest.mark.parametrize("promise", PROMISES)
        def test_promise(self, promise: str, executor: Executor) -> None:
            """Holds the executor to one promise."""
            PROMISES[promise](executor)
