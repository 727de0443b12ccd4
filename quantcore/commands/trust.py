"""Confirming a configuration file that starts programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantcore.contracts import remote
from quantcore.showing import one_line


def trust(
    file: Annotated[
        Path, typer.Argument(help="The configuration file; by default the working folder's.")
    ] = Path(remote.CONFIG_FILE),
) -> None:
    """Let a folder's quantcore.toml start the programs that it names, until it changes."""
    programs = remote.confirm(file)
    print(f"{file} may start from now on, as long as it stays as it is:")
    for name, python in programs.items():
        print(f"  backend {name}: {one_line(str(python))}")
