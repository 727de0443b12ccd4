"""What a policy's rule is about: a glob on layer names, `op:NAME`, or `tensor:GLOB`."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from quantcore.errors import PolicyError
from quantcore.ir.model import LAYER_OPS, LayerInfo
from quantcore.policy.reading import suggest
from quantcore.showing import shown

LAYERS, OP, TENSORS = "layers", "op", "tensors"
_PREFIXES = {"op": OP, "tensor": TENSORS}


@dataclass(frozen=True)
class Matcher:
    """The layers or the tensors that a rule is about.

    Attributes:
        names: What the pattern names: `LAYERS`, an `OP` or `TENSORS`.
        pattern: A glob; of an `OP` the neutral op itself.
    """

    names: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> Matcher:
        """Reads what stands under a rule's `match`.

        Raises:
            PolicyError: An op that there is not.
        """
        prefix, sign, pattern = text.partition(":")
        if not sign or prefix not in _PREFIXES:
            return cls(LAYERS, text)
        if _PREFIXES[prefix] == OP and pattern not in LAYER_OPS:
            ops = sorted(LAYER_OPS)
            hint = suggest(pattern, ops)
            raise PolicyError(f"unknown op in {shown(text)}{hint}; know {', '.join(ops)}")
        return cls(_PREFIXES[prefix], pattern)

    def matches_layer(self, layer: LayerInfo) -> bool:
        """Whether it is about this layer."""
        if self.names == OP:
            return layer.op == self.pattern
        return self.matches_name(layer.name)

    def matches_name(self, name: str) -> bool:
        """Whether its glob on layer names reaches this node, which need not be a layer."""
        return self.names == LAYERS and fnmatchcase(name, self.pattern)

    def matches_tensor(self, tensor: str) -> bool:
        """Whether it is about this tensor."""
        return self.names == TENSORS and fnmatchcase(tensor, self.pattern)
