"""The command line: quantcore's own errors become one line and exit code 2."""

from __future__ import annotations

import os
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
    stages,
    study,
    tables,
    training,
    trust,
    verify,
)
from quantcore.contracts import remote
from quantcore.runtime.notes import as_lines
from quantcore.runtime.signals import ending
from quantcore.runtime.threads import limit_this_process

app = typer.Typer(
    name="quantcore",
    help="Quantize one detector through any framework, and compare what comes out.",
    no_args_is_help=True,
    add_completion=False,
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


app.command("demo")(compare.demo)
app.command("compare")(compare.compare)
app.command("auto")(auto.auto)
app.command("list")(plugins.list_plugins)
backends = typer.Typer(help="For authors of backends.", no_args_is_help=True)
backends.command("check")(plugins.check)
backends.command("new")(authoring.new)
app.add_typer(backends, name="backends")
app.command("data")(data.data)
app.command("layers")(stages.layers)
app.command("export")(stages.export)
app.command("rewrite")(rewrites.rewrite)
app.command("equalize")(rewrites.equalize)
app.command("calibrate")(stages.calibrate)
app.command("quantize")(stages.quantize)
app.command("evaluate")(stages.evaluate)
app.command("detect")(detect.detect)
app.command("correct")(rewrites.correct)
app.command("report")(report.report)
app.command("diff")(tables.diff)
app.command("recalibrate")(tables.recalibrate)
app.command("verify")(verify.verify)
app.command("build")(engines.build)
app.command("inspect")(engines.inspect)
app.command("qat")(training.qat)
app.command("sensitivity")(study.sensitivity)
app.command("mixed")(study.mixed)
app.command("portability")(portability.portability)
app.command("trust")(trust.trust)


def main() -> None:
    """Runs the command line."""
    limit_this_process()
    with ending(), as_lines():
        app()
