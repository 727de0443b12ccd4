"""Which tensors are quantized: the one place that turns a policy into observation sites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from quantcore.errors import PolicyError
from quantcore.ir.edits import attributes, nodes_by_name
from quantcore.ir.model import FloatGraph, LayerInfo
from quantcore.policy.code import Code
from quantcore.policy.matcher import TENSORS
from quantcore.policy.policy import CalibrationPolicy, TensorPolicy
from quantcore.policy.profiles import Profile
from quantcore.qdq.decisions import Decision, decide
from quantcore.qdq.ties import united


@dataclass(frozen=True)
class Site:
    """A tensor to observe, and later to quantize.

    Attributes:
        tensor: Name in the float graph.
        role: `activation` or `weight`.
        policy: How its range is found and coded.
        consumers: Layers that read the quantized tensor; others keep reading the float one.
        axis: Channel axis of a per-channel range, None per tensor.
        group: Tensors of one group share one range, merged from all of theirs
            (`quantcore.qdq.groups.merged`); None where the tensor stands alone.
    """

    tensor: str
    role: str
    policy: TensorPolicy
    consumers: tuple[str, ...]
    axis: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is quantized, and how the ranges are found.

    Attributes:
        sites: Every site in graph order.
        decisions: For every layer.
        implementation: See `CalibrationPolicy`.
        arithmetic: What activations are computed in, `float32` or `float64`.
    """

    sites: tuple[Site, ...]
    decisions: tuple[Decision, ...]
    implementation: str = "native"
    arithmetic: str = "float32"


def plan(model: FloatGraph, policy: CalibrationPolicy) -> Plan:
    """The sites that a policy asks for on a model; reads no image.

    The policy's rules decide first, its placement profile about everything else. A tensor is one
    site however many quantized layers read it.

    Raises:
        PolicyError: A rule matches nothing, or two rules want one tensor quantized differently.
    """
    if policy.observers:
        names = ", ".join(one.label for one in policy.observers)
        raise PolicyError(
            f"observers: the policy lists several ({names}), for a table each; only `quantcore "
            "calibrate` and `quantcore recalibrate` take that, so name one under `activations`"
        )
    policy.check_rules(model.layers)
    _check_tensor_rules(model, policy)
    decisions = decide(model, policy)
    sites: dict[str, Site] = {}
    bound: set[str] = set()
    for layer in model.layers:
        decision = decisions[layer.name]
        for site in _sites_of(layer, decision, model, policy):
            sites[site.tensor] = _joined(sites.get(site.tensor), site, bound, decision.weighted)
            if decision.weighted:
                bound.add(site.tensor)
    for site in _forced(model, policy):
        sites[site.tensor] = _joined(sites.get(site.tensor), site, bound, False)
    found = _grouped(model, decisions, _by_tensor_rules(sites, policy))
    return Plan(found, tuple(decisions.values()), policy.implementation, policy.calibrates_in)


def _sites_of(
    layer: LayerInfo, decision: Decision, model: FloatGraph, policy: CalibrationPolicy
) -> list[Site]:
    if not decision.inputs and not decision.weights:
        return []
    rule = policy.rule_for(layer)
    activations = (rule.activations if rule else None) or policy.activations
    weights = (rule.weights if rule else None) or policy.weights
    _check_writable(f"layer {layer.name!r}", activations, weights, policy.placement)
    found = [Site(t, "activation", activations, (layer.name,)) for t in decision.inputs]
    for tensor in decision.weights:
        axis = channel_axis(layer, model) if weights.granularity == "per_channel" else None
        found.append(Site(tensor, "weight", weights, (layer.name,), axis))
    return found


def _check_writable(
    where: str, activations: TensorPolicy, weights: TensorPolicy, profile: Profile
) -> None:
    if activations.granularity != "per_tensor":
        raise PolicyError(
            f"{where}: per-channel activations cannot be written as Q/DQ that an "
            "engine runs; set activations.granularity to per_tensor"
        )
    if not weights.symmetric:
        raise PolicyError(
            f"{where}: weights are written with symmetric codes; set weights.symmetric to true"
        )
    if not activations.symmetric and not profile.zero_points:
        raise PolicyError(
            f"{where}: affine activations need an engine that takes zero points, and placement "
            f"{profile.name!r} is not for one alone; set activations.symmetric to true, or "
            "`placement: onnxruntime`"
        )


def _joined(old: Site | None, new: Site, bound: set[str], weighted: bool) -> Site:
    """One site for a tensor that several layers read.

    Args:
        old: What there is, if anything.
        new: What one more layer asks for.
        bound: Tensors whose policy is settled by a layer with weights or by a rule.
        weighted: Whether the new one settles it.
    """
    if old is None:
        return new
    consumers = (*old.consumers, *(c for c in new.consumers if c not in old.consumers))
    if not weighted:
        return replace(old, consumers=consumers)
    if new.tensor in bound and (old.policy, old.axis, old.role) != (new.policy, new.axis, new.role):
        raise PolicyError(
            f"tensor {new.tensor!r} feeds {', '.join(old.consumers)} and {new.consumers[0]}, which "
            "the rules quantize differently; one tensor has one Q/DQ pair, so match them alike"
        )
    return replace(new, consumers=consumers)


def _check_tensor_rules(model: FloatGraph, policy: CalibrationPolicy) -> None:
    names = {name for node in model.proto.graph.node for name in (*node.input, *node.output)}
    names -= model.not_floats
    for rule in policy.layers:
        if rule.matcher.names == TENSORS and not any(map(rule.matcher.matches_tensor, names)):
            raise PolicyError(
                f"layers: rule {rule.match!r} matches no tensor of floats here; `quantcore "
                "layers --json` shows the tensors of every layer"
            )


def _forced(model: FloatGraph, policy: CalibrationPolicy) -> Iterator[Site]:
    """Activations that a `tensor:` rule quantizes, for everything that reads them."""
    readers: dict[str, list[str]] = {}
    skipped = model.initializers.keys() | model.not_floats
    for node in model.proto.graph.node:
        for name in dict.fromkeys(i for i in node.input if i and i not in skipped):
            readers.setdefault(name, []).append(node.name)
    for tensor, consumers in readers.items():
        rule = policy.rule_for_tensor(tensor)
        if rule is not None and rule.quantize:
            yield Site(tensor, "activation", policy.activations, tuple(consumers))


def _by_tensor_rules(sites: dict[str, Site], policy: CalibrationPolicy) -> list[Site]:
    """The sites after the `tensor:` rules, which come last because they name one tensor."""
    found = []
    for site in sites.values():
        rule = policy.rule_for_tensor(site.tensor)
        if rule is None:
            found.append(site)
        elif rule.quantize is not False:
            own = rule.activations if site.role == "activation" else rule.weights
            if own is not None:
                weights = own if site.role == "weight" else policy.weights
                activations = own if site.role == "activation" else policy.activations
                _check_writable(f"tensor {site.tensor!r}", activations, weights, policy.placement)
            found.append(replace(site, policy=own or site.policy))
    return found


def _grouped(
    model: FloatGraph, decisions: dict[str, Decision], sites: list[Site]
) -> tuple[Site, ...]:
    """The sites with the groups that layers of equal scales make of them."""
    there = {site.tensor for site in sites}
    ties = []
    for layer in model.layers:
        decision = decisions[layer.name]
        tie = [t for t in (*decision.inputs, *layer.outputs) if t in there]
        if decision.tied and len(tie) > 1:
            ties.append(tie)
    groups = united(ties)
    found = tuple(replace(site, group=groups.get(site.tensor)) for site in sites)
    first: dict[str | None, Site] = {}
    for site in found:
        other = first.setdefault(site.group, site)
        if site.group is not None and _code(site) != _code(other):
            raise PolicyError(
                f"tensors {other.tensor!r} and {site.tensor!r} are to have one scale, but the "
                "rules give them other codes or another symmetry; match them alike"
            )
    return found


def _code(site: Site) -> tuple[Code, bool]:
    return site.policy.code, site.policy.symmetric


def channel_axis(layer: LayerInfo, model: FloatGraph) -> int:
    """Axis of the output channels in a layer's weight.

    ONNX stores Conv as O x I x kH x kW, ConvTranspose as I x O x kH x kW, Gemm as I x O (O x I with
    transB) and MatMul as I x O.
    """
    if layer.op == "conv2d":
        return 0
    if layer.op == "conv_transpose2d":
        return 1
    transposed = attributes(nodes_by_name(model.proto.graph)[layer.name]).get("transB", 0)
    return 0 if transposed else model.initializers[layer.weights[0]].ndim - 1
