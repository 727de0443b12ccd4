"""Engines by themselves: building a graph into a file, and what an engine really runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from quantcore import pipeline
from quantcore.commands.options import (
    Engine,
    EngineOption,
    Providers,
    Threads,
    engine_options,
)
from quantcore.contracts import registry
from quantcore.engines.audit import audit
from quantcore.engines.audit import inspect as run_audit
from quantcore.report import terminal
from quantcore.results.audit import Int8Audit
from quantcore.runtime.progress import for_console

Graph = Annotated[Path, typer.Argument(help="ONNX graph, float or Q/DQ.")]
MaxBatch = Annotated[
    int | None,
    typer.Option(
        help="Largest batch, for engines with fixed shapes (tensorrt); 1 by default.", min=1
    ),
]
Target = Annotated[
    str | None,
    typer.Option(help="GPU generation to build for (tensorrt_rtx): SM75, SM86, SM120, ..."),
]


def build(
    graph: Graph,
    engine: Engine,
    out: Annotated[Path, typer.Option(help="File to write; its manifest lies beside it.")],
    threads: Threads = None,
    max_batch: MaxBatch = None,
    target: Target = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that keeps kernel timings between builds (tensorrt).")
    ] = None,
    provider: Providers = None,
    engine_option: EngineOption = None,
) -> None:
    """Build a graph into an engine's own file, where it has one, without running it."""
    plugin = registry.load_engine(engine)
    proto = pipeline.load_onnx(graph)
    options = engine_options(
        [engine],
        engine_option,
        threads=threads,
        providers=provider,
        max_batch=max_batch,
        target=target,
        timing_cache=timing_cache,
    )[engine]
    report = plugin.build_ahead(proto, options, out, for_console())
    library = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    terminal.say(
        f"{out}: {report.plan_bytes / 1e6:.1f} MB in {report.seconds:.1f} s with {library}; "
        f"{report.hardware}"
    )
    found = audit(plugin, proto, report.layers)
    terminal.say(found.summary() if found.layers else _verified(report.verified))
    terminal.say(f"{report.manifest}: written")


def inspect(
    graph: Graph,
    engine: Engine,
    threads: Threads = None,
    provider: Providers = None,
    engine_option: EngineOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show which of the layers that a Q/DQ graph quantizes an engine really runs in INT8."""
    plugin = registry.load_engine(engine)
    options = engine_options([engine], engine_option, threads=threads, providers=provider)[engine]
    found = run_audit(plugin, pipeline.load_onnx(graph), options)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    terminal.console().print(_table(found))
    terminal.say(found.summary())


def _verified(verified: bool) -> str:
    return "every layer's precision is verified" if verified else "built, precision not verified"


def _table(found: Int8Audit) -> Table:
    """A row for each layer that the graph quantizes."""
    table = Table(title=f"quantized layers on {found.engine}", title_justify="left")
    for column in ("layer", "operator", "runs as", "precision", "why not INT8"):
        table.add_column(column, overflow="fold")
    for layer in found.layers:
        table.add_row(
            layer.node,
            layer.op,
            layer.runs_as or "-",
            layer.precision or "not verified",
            layer.why or "",
        )
    return table
