"""Which tensors are quantized: the one place that turns a policy into observation sites."""

from __future__ import annotations

from dataclasses import dataclass

from quantcore.errors import PolicyError
from quantcore.ir import WEIGHTED_OPS, FloatModel, LayerInfo
from quantcore.policy import CalibrationPolicy, TensorPolicy


@dataclass(frozen=True)
class Site:
    """A tensor to observe, and later to quantize.

    Attributes:
        tensor: Name in the float graph.
        role: `activation` or `weight`.
        policy: How its range is found and coded.
        consumers: Layers that read the quantized tensor; others keep reading the float one.
        axis: Channel axis of a per-channel range, None per tensor.
    """

    tensor: str
    role: str
    policy: TensorPolicy
    consumers: tuple[str, ...]
    axis: int | None = None


@dataclass(frozen=True)
class Decision:
    """What happens to one layer, and why."""

    layer: str
    quantized: bool
    reason: str


@dataclass(frozen=True)
class Plan:
    """Every site in graph order, and the decision for every layer."""

    sites: tuple[Site, ...]
    decisions: tuple[Decision, ...]
    implementation: str = "native"


def plan(model: FloatModel, policy: CalibrationPolicy) -> Plan:
    """The sites that a policy asks for on a model; reads no image.

    Convolutions and linear layers are quantized (inputs and weights) unless a rule says no, other
    layers only where a rule says yes (their inputs). A tensor is one site however many quantized
    layers read it.

    Raises:
        PolicyError: A rule matches nothing, or two rules want one tensor quantized differently.
    """
    policy.check_rules(model.layers)
    sites: dict[str, Site] = {}
    decisions = []
    for layer in model.layers:
        quantized, reason = _decide(layer, policy)
        decisions.append(Decision(layer.name, quantized, reason))
        if quantized:
            for site in _sites_of(layer, model, policy):
                sites[site.tensor] = _joined(sites.get(site.tensor), site)
    return Plan(tuple(sites.values()), tuple(decisions), policy.implementation)


def _decide(layer: LayerInfo, policy: CalibrationPolicy) -> tuple[bool, str]:
    rule = policy.rule_for(layer)
    if rule is not None:
        return rule.quantizes(layer), f"rule {rule.match!r}"
    if layer.op in WEIGHTED_OPS:
        return True, f"{layer.op} is quantized by default"
    return False, f"{layer.op} is float unless a rule quantizes it"


def _sites_of(layer: LayerInfo, model: FloatModel, policy: CalibrationPolicy) -> list[Site]:
    rule = policy.rule_for(layer)
    activations = (rule.activations if rule else None) or policy.activations
    weights = (rule.weights if rule else None) or policy.weights
    if activations.granularity != "per_tensor":
        raise PolicyError(
            f"layer {layer.name!r}: per-channel activations cannot be written as Q/DQ that an "
            "engine runs; set activations.granularity to per_tensor"
        )
    for tensor_policy in (activations, weights):
        if not tensor_policy.symmetric or tensor_policy.bits != 8:
            raise PolicyError(
                f"layer {layer.name!r}: Q/DQ graphs are written with symmetric 8-bit codes; set "
                "`bits: 8` and `symmetric: true`"
            )
    found = [Site(t, "activation", activations, (layer.name,)) for t in dict.fromkeys(layer.inputs)]
    for tensor in layer.weights:
        axis = channel_axis(layer, model) if weights.granularity == "per_channel" else None
        found.append(Site(tensor, "weight", weights, (layer.name,), axis))
    return found


def _joined(old: Site | None, new: Site) -> Site:
    """One site for a tensor that several layers read."""
    if old is None:
        return new
    if (old.policy, old.axis, old.role) != (new.policy, new.axis, new.role):
        raise PolicyError(
            f"tensor {new.tensor!r} feeds {', '.join(old.consumers)} and {new.consumers[0]}, which "
            "the rules quantize differently; one tensor has one Q/DQ pair, so match them alike"
        )
    consumers = (*old.consumers, *(c for c in new.consumers if c not in old.consumers))
    return Site(old.tensor, old.role, old.policy, consumers, old.axis)


def channel_axis(layer: LayerInfo, model: FloatModel) -> int:
    """Axis of the output channels in a layer's weight.

    ONNX stores Conv as O x I x kH x kW, ConvTranspose as I x O x kH x kW, Gemm as I x O (O x I with
    transB) and MatMul as I x O.
    """
    if layer.op == "conv2d":
        return 0
    if layer.op == "conv_transpose2d":
        return 1
    node = next(n for n in model.proto.graph.node if n.name == layer.name)
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else model.initializers[layer.weights[0]].ndim - 1
