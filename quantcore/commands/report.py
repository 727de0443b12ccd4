"""Reports again: the page of a study from the JSON that it wrote."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from quantcore.report import terminal
from quantcore.report.pages.reading import pages_in
from quantcore.runtime.files import write_whole


class Format(str, Enum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "markdown"
    CSV = "csv"


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder that a study wrote: compare, auto, mixed, ...")
    ],
    kind: Annotated[
        Format, typer.Option("--format", help="html: the page; markdown, csv: on the terminal.")
    ] = Format.HTML,
) -> None:
    """Write the page of a finished study again, or print its tables as Markdown or CSV."""
    for path, page in pages_in(folder).items():
        if kind is Format.HTML:
            write_whole(path, page.html())
            terminal.say(f"{path}: written")
        else:
            text = page.markdown() if kind is Format.MARKDOWN else page.csv()
            typer.echo(text, nl=False)
