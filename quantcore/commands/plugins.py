"""What is installed, and whether it keeps the contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from quantcore.contracts import registry
from quantcore.contracts.engine import EnginePlugin
from quantcore.contracts.executor import ExecutorPlugin
from quantcore.contracts.options import OptionInfo, described
from quantcore.contracts.registry import PluginInfo
from quantcore.contracts.rewrite import Rewrite
from quantcore.errors import PluginError
from quantcore.report import terminal
from quantcore.runtime.progress import for_console

if TYPE_CHECKING:
    from quantcore.testing.kit import CheckOutcome


#: Groups whose plugins declare options, and what loads one of them.
_LOADERS: Mapping[str, Callable[[str], EnginePlugin | Rewrite | ExecutorPlugin]] = {
    registry.ENGINES: registry.load_engine,
    registry.EXECUTORS: registry.load_executor,
    registry.REWRITES: registry.load_rewrite,
}


def list_plugins(
    options: Annotated[
        str | None,
        typer.Option(help="Show this engine's, rewrite's or executor's options instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the installed plugins of every kind, and what is in the way of any."""
    if options is not None:
        _show_options(options, as_json)
        return
    groups = (
        registry.MODELS,
        registry.BACKENDS,
        registry.ENGINES,
        registry.REWRITES,
        registry.EXECUTORS,
    )
    found = {group: registry.installed(group, for_console()) for group in groups}
    if as_json:
        data = {g.rpartition(".")[2]: [i.to_dict() for i in infos] for g, infos in found.items()}
        print(json.dumps(data, indent=1))
    else:
        listed = [info for infos in found.values() for info in infos]
        terminal.console().print(_plugins(listed))


def _show_options(name: str, as_json: bool) -> None:
    """Prints what a plugin can be told.

    Raises:
        PluginError: Nothing that declares options has this name.
        BackendUnavailable: What it drives is not installed.
    """
    names = {group: [info.name for info in registry.installed(group)] for group in _LOADERS}
    groups = [group for group in _LOADERS if name in names[group]]
    if not groups:
        known = ", ".join(sorted({each for listed in names.values() for each in listed}))
        raise PluginError(f"no engine, rewrite or executor is called {name!r}; installed: {known}")
    plugins = {group: _LOADERS[group](name) for group in groups}
    found = {group: described(plugin.options) for group, plugin in plugins.items()}
    if as_json:
        data = {g.rpartition(".")[2]: [asdict(i) for i in infos] for g, infos in found.items()}
        print(json.dumps(data, indent=1, default=str))
        return
    for group, infos in found.items():
        plugin = plugins[group]
        caption = plugin.ensures if isinstance(plugin, Rewrite) else None
        terminal.console().print(_options(f"{group.rpartition('.')[2]}: {name}", caption, infos))


def _options(title: str, caption: str | None, infos: Iterable[OptionInfo]) -> Table:
    """What a plugin can be told."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in ("option", "default", "repeats", "what it does"):
        table.add_column(column, overflow="fold")
    for info in infos:
        default = "" if info.default in (None, ()) else str(info.default)
        table.add_row(info.name, default, "yes" if info.repeats else "", info.help)
    return table


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
        table.add_column(column, no_wrap=column != "status")
    for info in found:
        where = f"available, in {info.python}" if info.python else "available"
        table.add_row(
            info.group.rpartition(".")[2],
            info.name,
            info.distribution,
            info.version,
            info.unavailable or _hindered(info) or where,
        )
    return table


def _hindered(info: PluginInfo) -> str | None:
    """What an engine that is installed cannot do on this machine; None where it can do all."""
    if info.group != registry.ENGINES:
        return None
    plugin = registry.load_engine(info.name)
    reason = plugin.cannot_run()
    if reason is None:
        return None
    return f"{'builds graphs ahead, ' if plugin.builds_ahead else ''}runs none here: {reason}"
