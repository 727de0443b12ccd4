"""The command line: quantcore's own errors become one line and exit code 2."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

import quantcore
from quantcore.commands import (
    authoring,
    auto,
    compare,
    data,
    detect,
    engines,
    plugins,
    portability,
    report,
    rewrites,
    show,
    stages,
    study,
    tables,
    training,
    trust,
    verify,
)
from quantcore.commands.command import Group, add
from quantcore.contracts import remote
from quantcore.runtime.notes import as_lines
from quantcore.runtime.signals import ending
from quantcore.runtime.threads import limit_this_process

app = typer.Typer(
    name="quantcore",
    help="Quantize one detector through any framework, and compare what comes out.",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"quantcore {quantcore.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="A quantcore.toml to use instead of the working folder's."),
    ] = None,
) -> None:
    if config is not None:
        os.environ[remote.CONFIG_VARIABLE] = str(config)


_COMMANDS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Start here": {
        "demo": compare.demo,
        "list": plugins.list_plugins,
        "data": data.data,
        "compare": compare.compare,
        "auto": auto.auto,
    },
    "Stage by stage": {
        "layers": stages.layers,
        "export": stages.export,
        "rewrite": rewrites.rewrite,
        "equalize": rewrites.equalize,
        "calibrate": stages.calibrate,
        "recalibrate": tables.recalibrate,
        "correct": rewrites.correct,
        "quantize": stages.quantize,
        "qat": training.qat,
        "build": engines.build,
        "evaluate": stages.evaluate,
    },
    "Look closer": {
        "detect": detect.detect,
        "show": show.show,
        "report": report.report,
        "diff": tables.diff,
        "verify": verify.verify,
        "inspect": engines.inspect,
        "sensitivity": study.sensitivity,
        "mixed": study.mixed,
        "portability": portability.portability,
    },
    "Surroundings": {"trust": trust.trust},
}
for _panel, _commands in _COMMANDS.items():
    for _name, _function in _commands.items():
        add(app, _panel, _name, _function)
backends = typer.Typer(cls=Group, help="For authors of backends.", no_args_is_help=True)
add(backends, "Commands", "check", plugins.check)
add(backends, "Commands", "new", authoring.new)
app.add_typer(backends, name="backends", rich_help_panel="Surroundings")


def main() -> None:
    """Runs the command line."""
    limit_this_process()
    with ending(), as_lines():
        app(prog_name="quantcore")
