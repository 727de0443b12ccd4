"""For authors of backends: a distribution to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    name: Annotated[str, typer.Argument(help="What people will type after --backend.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; quantcore-backend-NAME by default.")
    ] = None,
) -> None:
    """Write the distribution of a new backend, ready to install; one function is left to fill."""
    from quantcore.testing import scaffold  # late: its package imports pytest

    folder = out or Path(f"quantcore-backend-{name}")
    scaffold.write(name, folder)
    package = name.replace("-", "_")
    print(f"{folder}: written; fill amax_of in src/quantcore_backend_{package}/session.py, then")
    print(f'  pip install -e "{folder}[test]"')
    print(f"  quantcore backends check {name}")
