"""A report as one page: what is on it, and the page as self-contained HTML.

Every study builds a `Page` from its JSON; one template renders them all. Beside HTML, the tables of
a page can be had as Markdown and CSV.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

#: A table with more rows is folded on the page.
LONG = 20


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is shown.
        order: What the column is sorted by; the text where None.
        hint: Shown on hovering.
        shade: How strongly it is coloured, 0..1.
    """

    text: str
    order: float | None = None
    hint: str = ""
    shade: float = 0.0

    @property
    def key(self) -> str:
        """What a script sorts by."""
        return "-Infinity" if self.order == -math.inf else repr(self.order)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that can be sorted by each column.

    Attributes:
        title: Above it.
        columns: Their heads; the first names the row.
        rows: Cells, or texts.
        note: Below it.
        opened: Whether it is shown however long it is.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""
    opened: bool = False
    kind: str = field(default="table", init=False)

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows as cells."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]

    @property
    def folded(self) -> bool:
        """Whether it is too long to be seen at once."""
        return len(self.rows) > LONG


@dataclass(frozen=True)
class Plot:
    """A picture that a plotting library drew.

    Attributes:
        svg: The drawing, from `quantcore.report.figures`.
        about: What is seen, in a sentence: the caption.
    """

    svg: str
    about: str
    kind: str = field(default="plot", init=False)

    @property
    def drawing(self) -> Markup:
        """The drawing as part of the page."""
        return Markup(self.svg)


@dataclass(frozen=True)
class Photos:
    """Pictures side by side.

    Attributes:
        title: What they show.
        panes: Caption and `data:` address of each.
        about: Below them.
    """

    title: str
    panes: Sequence[tuple[str, str]]
    about: str = ""
    kind: str = field(default="photos", init=False)


@dataclass(frozen=True)
class Words:
    """Paragraphs; those that are `bad` tell of failures."""

    lines: Sequence[str]
    bad: bool = False
    kind: str = field(default="words", init=False)


@dataclass(frozen=True)
class Facts:
    """Names and values, such as versions; a mapping as a value is shown folded, as JSON."""

    pairs: Mapping[str, Any]
    kind: str = field(default="facts", init=False)


Block = Table | Plot | Photos | Words | Facts


@dataclass(frozen=True)
class Section:
    """A part of the page under its own heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report.

    Attributes:
        title: Of the page.
        subtitle: What was measured on what.
        verdict: What it comes to; the first line is the most important one.
        sections: The rest.
    """

    title: str
    subtitle: str = ""
    verdict: Sequence[str] = ()
    sections: Sequence[Section] = ()

    @property
    def filled(self) -> list[Section]:
        """The sections that have something to show."""
        return [s for s in self.sections if any(map(_shows, s.blocks))]

    @property
    def tables(self) -> list[Table]:
        """All tables with rows, the most important first."""
        blocks = (block for section in self.sections for block in section.blocks)
        return [block for block in blocks if isinstance(block, Table) and block.rows]

    def html(self) -> str:
        """The page; needs no network and no other file."""
        environment = Environment(
            loader=PackageLoader("quantcore.report"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("page.html.j2").render(page=self) + "\n"

    def markdown(self) -> str:
        """Verdict and tables, for a pull request or an issue."""
        lines = [f"# {_escaped(self.title)}", "", _escaped(self.subtitle), ""]
        lines += [f"- {_escaped(line)}" for line in self.verdict]
        for table in self.tables:
            lines += ["", f"## {_escaped(table.title)}", "", _row(table.columns)]
            lines.append("|" + " --- |" * len(table.columns))
            lines += [_row(cell.text for cell in row) for row in table.cells]
            lines += ["", _escaped(table.note)] if table.note else []
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The first table, for a spreadsheet."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        for table in self.tables[:1]:
            writer.writerow(table.columns)
            writer.writerows([_inert(cell.text) for cell in row] for row in table.cells)
        return out.getvalue()


def _shows(block: Block) -> bool:
    """Whether there is anything in a block."""
    if isinstance(block, Table):
        return bool(block.rows)
    return not isinstance(block, Words) or bool(block.lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """A text that Markdown shows as it is."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def _inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula: names come out of files."""
    begins = text[:1] in ("=", "@", "\t", "\r") or (text[:1] in "+-" and not text[1:2].isdigit())
    return f"'{text}" if begins and text != "-" else text


def number(value: float | None, digits: int = 3, sign: str = "") -> Cell:
    """A figure, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell("-", -math.inf)
    return Cell(f"{value:{sign}.{digits}f}", value)


def spanned(found: Mapping[str, Any] | None, digits: int = 3, sign: str = "") -> Cell:
    """A figure with its interval, from an `Estimate` in JSON."""
    if not found or found.get("value") is None:
        return Cell("-", -math.inf)
    value = float(found["value"])
    low, high = found.get("low"), found.get("high")
    if low is None or high is None:
        return number(value, digits, sign)
    text = f"{value:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"
    return Cell(text, value)
