"""Running the checks: for a plugin's tests with pytest, and for the command line without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantcore.runtime.progress import Progress, Silent
from quantcore.testing.checks import CHECKS, Check
from quantcore.testing.under_test import BackendUnderTest


@dataclass(frozen=True)
class CheckOutcome:
    """What came of one check.

    Attributes:
        check: The check.
        status: `passed`, `failed` or `skipped`.
        detail: Why, where it did not pass.
    """

    check: Check
    status: str
    detail: str = ""


def run(name: str, progress: Progress | None = None) -> Iterator[CheckOutcome]:
    """Holds an installed backend to every promise, and goes on after a broken one.

    Args:
        name: Backend name.
        progress: Where to report.

    Raises:
        PluginError: There is no such backend, or it cannot be loaded.
    """
    backend = BackendUnderTest(name)
    plugin = backend.plugin
    for check in (progress or Silent()).track(CHECKS, f"checking {name}"):
        if not check.applies(plugin):
            yield CheckOutcome(check, "skipped", f"does not declare {check.tier}")
            continue
        try:
            check.run(backend)
        except Exception as error:  # a broken backend may raise anything
            detail = str(error) if isinstance(error, AssertionError) else repr(error)
            yield CheckOutcome(check, "failed", " ".join(detail.split())[:300])
        else:
            yield CheckOutcome(check, "passed")
