"""What is installed, and whether it keeps the contract."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from quantcore import registry
from quantcore.progress import for_console
from quantcore.report import terminal
from quantcore.testing import kit


def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the installed models, backends and engines, and what is in the way of any."""
    groups = (registry.MODELS, registry.BACKENDS, registry.ENGINES)
    found = {group: registry.installed(group, for_console()) for group in groups}
    if as_json:
        data = {g.rpartition(".")[2]: [i.to_dict() for i in infos] for g, infos in found.items()}
        print(json.dumps(data, indent=1))
    else:
        terminal.console().print(
            terminal.plugins([info for infos in found.values() for info in infos])
        )


def check(name: Annotated[str, typer.Argument(help="Backend plugin.")]) -> None:
    """Hold an installed backend to every promise of the contract; exit code 1 if it breaks one."""
    outcomes = list(kit.run(name, for_console()))
    terminal.console().print(terminal.conformance(outcomes))
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    print(f"{name}: {len(outcomes) - failed} of {len(outcomes)} promises kept or not declared")
    if failed:
        raise typer.Exit(1)
