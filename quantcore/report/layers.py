"""Every layer of a model: its neutral names, a framework's, and whether it is quantized."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table

from quantcore.contracts.backend import BackendPlugin
from quantcore.ir.model import FloatModel
from quantcore.qdq.placement import Plan, Site


def rows(model: FloatModel, plan: Plan, backends: list[BackendPlugin]) -> list[dict[str, Any]]:
    """One JSON-serialisable row for each layer, in graph order.

    Args:
        model: The float model.
        plan: What a policy decides about it.
        backends: Whose class and argument names are shown.
    """
    decisions = {decision.layer: decision for decision in plan.decisions}
    sites = {site.tensor: site for site in plan.sites}
    return [
        {
            "name": layer.name,
            "op": layer.op,
            "inputs": layer.inputs,
            "weights": layer.weights,
            "outputs": layer.outputs,
            "quantized": decisions[layer.name].quantized,
            "reason": decisions[layer.name].reason,
            "observers": {
                tensor: _observer(sites[tensor])
                for tensor in (*layer.inputs, *layer.weights)
                if tensor in sites and layer.name in sites[tensor].consumers
            },
            "frameworks": {b.name: _framework(b, layer) for b in backends},
        }
        for layer in model.layers
    ]


def _observer(site: Site) -> str:
    policy = site.policy
    parameters = "".join(f" {value:g}" for _, value in policy.parameters)
    axis = "" if site.axis is None else f" axis {site.axis}"
    return f"{policy.observer}{parameters}, {policy.bits} bits, {policy.granularity}{axis}"


def _framework(backend: BackendPlugin, layer: Any) -> dict[str, Any] | None:
    """The framework's class and, by its own argument names, the neutral tensors."""
    found = backend.framework_layer(layer)
    if found is None:
        return None
    names = (*found.inputs, *found.weights, *found.outputs)
    tensors = (*layer.inputs, *layer.weights, *layer.outputs)
    return {"class": found.cls, "arguments": dict(zip(names, tensors, strict=False))}


def table(found: list[dict[str, Any]], backends: list[BackendPlugin]) -> Table:
    """The rows for a terminal."""
    view = Table()
    for column in ("layer", "op", "quantized", "why"):
        view.add_column(column, overflow="fold")
    for backend in backends:
        view.add_column(backend.name, overflow="fold")
    for row in found:
        how = "; ".join(dict.fromkeys(row["observers"].values())) if row["quantized"] else "float"
        view.add_row(
            row["name"],
            row["op"],
            how,
            row["reason"].partition(":")[0],  # the summary spells it out, once
            *(_cell(row["frameworks"][b.name]) for b in backends),
        )
    return view


def summary(found: list[dict[str, Any]]) -> list[str]:
    """How many layers are quantized, and why the others are not, each reason once."""
    reasons = Counter((row["quantized"], row["reason"]) for row in found)
    quantized = Counter(row["op"] for row in found if row["quantized"])
    kinds = ", ".join(f"{count} {op}" for op, count in quantized.most_common())
    lines = [
        f"{sum(quantized.values())} of {len(found)} layers are quantized"
        + (f": {kinds}" if kinds else "")
    ]
    return lines + [
        f"{count} ({count / len(found):.0%}) {'quantized' if is_ else 'in float'}: {reason}"
        for (is_, reason), count in reasons.most_common()
    ]


def _cell(framework: dict[str, Any] | None) -> str:
    if framework is None:
        return "function"
    return f"{framework['class']}({', '.join(framework['arguments'])})"
