"""What is installed, and whether it keeps the contract."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from quantcore.contracts import registry
from quantcore.contracts.registry import PluginInfo
from quantcore.report import terminal
from quantcore.runtime.progress import for_console

if TYPE_CHECKING:
    from quantcore.testing.kit import CheckOutcome


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
        listed = [info for infos in found.values() for info in infos]
        terminal.console().print(_plugins(listed))


def check(name: Annotated[str, typer.Argument(help="Backend plugin.")]) -> None:
    """Hold an installed backend to every promise of the contract; exit code 1 if it breaks one."""
    from quantcore.testing import kit  # late: the checks import pytest

    outcomes = list(kit.run(name, for_console()))
    terminal.console().print(_conformance(outcomes))
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    print(f"{name}: {len(outcomes) - failed} of {len(outcomes)} promises kept or not declared")
    if failed:
        raise typer.Exit(1)


def _conformance(outcomes: list[CheckOutcome]) -> Table:
    """What came of each check of a backend."""
    table = Table()
    for column in ("promise", "tier", "status", "detail"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        table.add_row(outcome.check.name, outcome.check.tier, outcome.status, outcome.detail)
    return table


def _plugins(found: list[PluginInfo]) -> Table:
    """Installed plugins, and what is in the way of the others."""
    table = Table()
    for column in ("kind", "name", "distribution", "version", "status"):
        table.add_column(column)
    for info in found:
        where = f"available, in {info.python}" if info.python else "available"
        table.add_row(
            info.group.rpartition(".")[2],
            info.name,
            info.distribution,
            info.version,
            info.unavailable or where,
        )
    return table
