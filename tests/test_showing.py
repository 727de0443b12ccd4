"""Foreign text in messages and tables: on one line, escaped, short, and never markup."""

from __future__ import annotations

import time

import pytest
from rich.table import Table

from quantcore.errors import DataError
from quantcore.report.terminal import PlainConsole, say
from quantcore.runtime.progress import for_console
from quantcore.showing import one_line, shown

NASTY = "[/bold] a\n\x1b[31mred\r\ud800"


def deep(depth: int) -> list:
    found: list = []
    for _ in range(depth):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    "value",
    [
        NASTY,
        NASTY * 10_000,
        10**100_000,
        -(10**100_000),
        deep(60),
        {"a": deep(40), NASTY: [NASTY] * 10_000},
        tuple(range(10**6)),
        {1, "a", None},
        b"x" * 10**6,
        KeyError(NASTY),
        object(),
        float("nan"),
    ],
    ids=range(12),
)
def test_values(value: object) -> None:
    began = time.monotonic()
    text = shown(value)
    assert time.monotonic() - began < 1
    assert text.isprintable()
    assert 0 < len(text) <= 200


def test_what_contains_itself() -> None:
    value: list = []
    value.append(value)
    assert shown(value) == "[[[[...]]]]"


def test_numbers_and_texts_stay_what_they_are() -> None:
    assert [shown(v) for v in (1, -2.5, "a", None, True)] == ["1", "-2.5", "'a'", "None", "True"]
    assert shown(10**400) == "<a number of about 401 digits>"


def test_every_error_is_one_line() -> None:
    assert str(DataError(NASTY)) == r"[/bold] a \x1b[31mred\r\ud800"
    assert len(str(DataError("x" * 10**6))) == 2000
    assert one_line("äöü ß", 4) == "ä..."


def test_tables_and_lines_take_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=NASTY, caption=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    PlainConsole(width=160).print(table)
    say(NASTY)
    out = capsys.readouterr().out
    assert out.count(r"[/bold] a \x1b[31mred\r\ud800") == 5
    assert "\x1b" not in out


def test_progress_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    for terminal in (False, True):
        progress = for_console(PlainConsole(width=160, force_terminal=terminal))
        assert list(progress.track([1, 2], NASTY)) == [1, 2]
    assert "[31mred" in capsys.readouterr().out
