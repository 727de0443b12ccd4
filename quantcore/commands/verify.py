"""Checking Q/DQ graphs, of quantcore or of another tool, against a target's rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from quantcore.errors import UsageError
from quantcore.qdq.verify import RULES, Violation, check, load
from quantcore.report import terminal
from quantcore.runtime.plain import json_text

#: Operators that quantize, or compute in integers.
_QUANTIZES = re.compile(r"QuantizeLinear|^QLinear|Integer")


def verify(
    qdq: Annotated[Path, typer.Argument(help="Q/DQ ONNX file, of any tool.")],
    target: Annotated[
        str, typer.Option(help="Whose rules: tensorrt, onnxruntime or openvino.")
    ] = "tensorrt",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List what breaks a target's rules in a Q/DQ graph; exit code 1 where something does."""
    graph = load(qdq)
    found = check(graph, target)
    if not found and not any(_QUANTIZES.search(node.op_type) for node in graph.graph.node):
        raise UsageError(
            f"{qdq}: quantizes nothing, it has no Q/DQ nodes; give a graph of `quantcore quantize`"
        )
    failed = sum(violation.counts for violation in found)
    if as_json:
        print(json_text({"target": target, "violations": found}), end="")
    else:
        if found:
            terminal.console().print(_table(found))
        rest = f", {len(found) - failed} remarks" if len(found) > failed else ""
        terminal.say(f"{qdq}: {failed or 'no'} violations of the rules of {target}{rest}")
    if failed:
        raise typer.Exit(1)


def _table(found: tuple[Violation, ...]) -> Table:
    view = Table()
    for column in ("severity", "rule", "node", "what is wrong", "source"):
        view.add_column(column, overflow="fold")
    for one in found:
        rule = f"{one.rule}: {RULES[one.rule].text}"
        view.add_row(one.severity, rule, one.node, one.message, one.source)
    return view
