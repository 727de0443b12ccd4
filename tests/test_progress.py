"""Progress as lines for logs, and as bars for a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from rich.console import Console

from quantcore.runtime import progress as module
from quantcore.runtime.progress import Bars, Lines, Silent, for_console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time


def console(text: io.StringIO, terminal: bool = False) -> Console:
    return Console(file=text, force_terminal=terminal, width=200)


def test_lines_come_every_ten_seconds_and_at_the_end(clock: Callable[[float], None]) -> None:
    text = io.StringIO()
    lines = Lines(console(text))
    for _ in lines.track(range(5), "calibrating"):
        clock(4)
    assert text.getvalue().splitlines() == [
        "calibrating: 3/5 in 12 s"[:16] + ", 8 s left",
        "calibrating: 5 in 20.0 s",
    ]


def test_what_is_cut_short_says_so(clock: Callable[[float], None]) -> None:
    text = io.StringIO()
    for item in Lines(console(text)).track(range(5), "reading"):
        clock(1)
        if item == 2:
            break
    assert text.getvalue() == "reading: 2 of 5 in 3.0 s\n"


def test_an_unknown_total_is_left_out(clock: Callable[[float], None]) -> None:
    text = io.StringIO()
    for _ in Lines(console(text)).track(iter("ab"), "reading"):
        clock(11)
    assert text.getvalue().splitlines() == ["reading: 1", "reading: 2", "reading: 2 in 22.0 s"]


def test_an_error_ends_the_line_and_goes_on(clock: Callable[[float], None]) -> None:
    text = io.StringIO()

    def broken():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(Lines(console(text)).track(broken(), "reading", total=3))
    assert text.getvalue() == "reading: 1 of 3 in 0.0 s\n"


def test_square_brackets_are_text(clock: Callable[[float], None]) -> None:
    text = io.StringIO()
    list(Lines(console(text)).track([1], "model.[bold]0"))
    assert "model.[bold]0: 1 in" in text.getvalue()


def test_nothing_to_do_is_said_too(clock: Callable[[float], None]) -> None:
    text = io.StringIO()
    assert list(Lines(console(text)).track([], "reading")) == []
    assert text.getvalue() == "reading: 0 in 0.0 s\n"


def test_what_is_told_of_a_task_is_a_line_where_nothing_advances(
    clock: Callable[[float], None],
) -> None:
    text = io.StringIO()
    lines = Lines(console(text))
    task = lines.start("calibration", 1)
    lines.tell(task, "a: images: 3/8")
    assert text.getvalue() == ""
    clock(11)
    lines.tell(task, "")
    lines.tell(task, "a: images: 4/8")
    assert text.getvalue() == "calibration: 0/1 (a: images: 4/8)\n"


@pytest.mark.parametrize("kind", [Lines, Bars])
def test_items_pass_unchanged(kind: type) -> None:
    items = [object(), object()]
    assert list(kind(console(io.StringIO(), kind is Bars)).track(items, "x")) == items
    assert list(Silent().track(items, "x")) == items


def test_a_terminal_gets_bars_and_a_pipe_lines(capfd: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    assert isinstance(for_console(console(text, True)), Bars)
    assert isinstance(for_console(console(text)), Lines)
    list(for_console().track([1], "progress"))
    out, err = capfd.readouterr()
    assert out == ""
    assert "progress" in err


def test_bars_can_be_nested_and_used_again() -> None:
    text = io.StringIO()
    bars = Bars(console(text, True))
    for _ in range(2):
        for _ in bars.track(range(2), "outer"):
            list(bars.track(range(2), "inner"))
    assert bars._open == 0
    assert not bars._bars.live.is_started
    assert re.search("outer", text.getvalue())
