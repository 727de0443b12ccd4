"""What is installed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from quantcore import registry
from quantcore.report import terminal


def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the installed models, backends and engines, and what is in the way of any."""
    groups = (registry.MODELS, registry.BACKENDS, registry.ENGINES)
    found = {group: registry.installed(group) for group in groups}
    if as_json:
        data = {g.rpartition(".")[2]: [i.to_dict() for i in infos] for g, infos in found.items()}
        print(json.dumps(data, indent=1))
    else:
        terminal.console().print(
            terminal.plugins([info for infos in found.values() for info in infos])
        )
