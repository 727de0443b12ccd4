"""What happens to each layer, and why: the policy's rules first, then the placement profile."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import onnx

from quantcore.ir.edits import attributes, nodes_by_name
from quantcore.ir.model import FloatGraph, LayerInfo
from quantcore.policy.policy import CalibrationPolicy
from quantcore.policy.profiles import PlacementRule
from quantcore.qdq.topology import Topology, moves_values

_NEVER = (
    "never quantized: a projection, whose weights are constants of a formula (DFL, corners of a "
    "box) that 8 bits do not hold"
)


@dataclass(frozen=True)
class Decision:
    """What is quantized of a layer, and why.

    Attributes:
        layer: Its name.
        reason: The rule that decided.
        inputs: Activations that it reads quantized.
        weights: Weights that it reads quantized.
        tied: Whether its inputs and outputs are to have one range.
        weighted: Whether it is quantized for its own sake, so that its policy binds the tensor;
            an add or a concat takes whatever policy the tensor has.
    """

    layer: str
    reason: str
    inputs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    tied: bool = False
    weighted: bool = True

    @property
    def quantized(self) -> bool:
        """Whether anything of the layer is."""
        return bool(self.inputs or self.weights)


def decide(model: FloatGraph, policy: CalibrationPolicy) -> dict[str, Decision]:
    """The decision about every layer, by name in graph order."""
    decider = _Decider(model, policy)
    decisions = {layer.name: decider.open(layer) for layer in model.layers}
    wanted = {name for decision in decisions.values() for name in decision.inputs}
    # Against the graph's order: whether a concat is quantized hangs on what comes behind it.
    for layer in reversed(model.layers):
        rule = decider.rules[layer.name]
        if rule is not None and rule.action == "residual":
            decisions[layer.name] = decider.residual(layer, rule, decisions)
        elif rule is not None and rule.action == "equal_scales":
            decisions[layer.name] = decider.equal_scales(layer, rule, decisions[layer.name], wanted)
        wanted.update(decisions[layer.name].inputs)
    return decisions


class _Decider:
    """Decides about a model's layers as a policy and its placement profile say."""

    def __init__(self, model: FloatGraph, policy: CalibrationPolicy) -> None:
        self._model = model
        self._policy = policy
        self._topology = Topology(model.proto.graph)
        self._nodes = nodes_by_name(model.proto.graph)
        layers = (x for x in model.layers if x.weights and x.name not in model.projections)
        weighted = [self._nodes[layer.name] for layer in layers]
        self._behind = self._topology.beyond(weighted, forward=True)
        self._before = self._topology.beyond(weighted, forward=False)
        self.rules = {layer.name: self._profile_rule(layer) for layer in model.layers}

    def open(self, layer: LayerInfo) -> Decision:
        """The decision that no other layer's depends on; the rest are float for now."""
        if layer.name in self._model.projections:
            return Decision(layer.name, _NEVER)
        rule = self._policy.rule_for(layer)
        decided = rule.decides() if rule is not None else None
        if rule is not None and decided is not None:
            reason = f"rule {rule.match!r}"
            return _whole(layer, reason) if decided else Decision(layer.name, reason)
        found = self.rules[layer.name]
        reason = self._reason(found) if found else f"{layer.op} is float unless a rule quantizes it"
        if rule is not None and (rule.activations or rule.weights):
            reason += f"; how by rule {rule.match!r}"
        if found is not None and found.action == "quantize":
            return _whole(layer, reason)
        return Decision(layer.name, reason)

    def residual(
        self, layer: LayerInfo, rule: PlacementRule, decisions: dict[str, Decision]
    ) -> Decision:
        """Of an add, the inputs that its convolution does not write itself."""
        if self._decided(layer):
            return decisions[layer.name]
        branch = self._topology.fused_branch(self._nodes[layer.name])
        writer = self._topology.fused_layer(branch) if branch else None
        if writer is None:
            return Decision(layer.name, f"{self._reason(rule)}; float: no convolution to fuse with")
        if writer.name not in decisions or not decisions[writer.name].inputs:
            return Decision(layer.name, f"{self._reason(rule)}; float: {writer.name} is float")
        inputs = tuple(i for i in dict.fromkeys(layer.inputs) if i != branch)
        reason = f"{self._reason(rule)}; fuses with {writer.name}"
        return Decision(layer.name, reason, inputs, weighted=False)

    def equal_scales(
        self, layer: LayerInfo, rule: PlacementRule, manual: Decision, wanted: AbstractSet[str]
    ) -> Decision:
        """All inputs, tied to the output, where somebody reads the output quantized."""
        moves = moves_values(self._nodes[layer.name])
        if self._decided(layer):
            return replace(manual, tied=moves and bool(manual.inputs))
        if not moves:
            return Decision(layer.name, f"{self._reason(rule)}; float: it computes new values")
        if set(layer.outputs).isdisjoint(wanted):
            return Decision(layer.name, f"{self._reason(rule)}; float: nobody reads it quantized")
        inputs = tuple(dict.fromkeys(layer.inputs))
        return Decision(layer.name, self._reason(rule), inputs, tied=True, weighted=False)

    def _decided(self, layer: LayerInfo) -> bool:
        rule = self._policy.rule_for(layer)
        return rule is not None and rule.decides() is not None

    def _reason(self, rule: PlacementRule) -> str:
        return f"{self._policy.placement.name}/{rule.name}: {rule.because}"

    def _profile_rule(self, layer: LayerInfo) -> PlacementRule | None:
        positions = set()
        if layer.weights:
            if self._behind.isdisjoint(layer.inputs):
                positions.add("first")
            if self._before.isdisjoint(layer.outputs):
                positions.add("last")
        channels = self._channels(self._nodes[layer.name]) if layer.weights else None
        return self._policy.placement.rule_for(layer.op, channels, frozenset(positions))

    def _channels(self, node: onnx.NodeProto) -> int:
        """The smaller of input and output channels, of one group."""
        shape = self._model.initializers[node.input[1]].shape
        groups = int(attributes(node).get("group", 1))
        if node.op_type in ("Conv", "ConvTranspose"):  # O x I/g x ..., I x O/g x ...
            return int(min(shape[0] // groups, shape[1]))
        return int(min(shape[-2:]))


def _whole(layer: LayerInfo, reason: str) -> Decision:
    return Decision(layer.name, reason, tuple(dict.fromkeys(layer.inputs)), layer.weights)
