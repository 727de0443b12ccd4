"""Options of plugins: text becomes what the field declares, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from quantcore.contracts.options import as_given, described, filled, option, pairs
from quantcore.errors import UsageError


@dataclass(frozen=True)
class Options:
    inner: int | None = None
    threads: int | None = option(None, "How many.")
    exact: bool = option(False, "Node by node.")
    providers: tuple[str, ...] = option((), "Most wanted first.")
    cache: Path | None = option(None, "A file.")


def test_text_becomes_what_the_field_declares() -> None:
    given = pairs(["threads=2", "exact=true", "providers=A", "providers=B=C", "cache=x/y"])
    found = filled(Options, given, "engine 'x'", inner=7)
    assert found == Options(7, 2, True, ("A", "B=C"), Path("x/y"))
    assert filled(Options, [], "engine 'x'") == Options()
    assert as_given(found)["cache"] == Path("x/y")
    assert as_given(Options()) == {}


def test_what_is_for_people_is_described() -> None:
    assert [info.name for info in described(Options)] == ["threads", "exact", "providers", "cache"]
    assert [info.repeats for info in described(Options)] == [False, False, True, False]
    assert described(Options)[0].help == "How many."


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["thread=2"], r"engine 'x' has no option 'thread' \(did you mean 'threads'\?\); it takes"),
        (["inner=2"], "no option 'inner'"),
        (["threads=two"], "threads: expected `int | null`"),
        (["threads=1", "threads=2"], "'threads' is given twice"),
        (["threads"], "NAME=VALUE, not 'threads'"),
        (["=3"], "NAME=VALUE"),
    ],
)
def test_what_does_not_fit_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("|", r"\|")):
        filled(Options, pairs(given), "engine 'x'")
