"""Where a graph chooses: outputs that are places, not values, and what is chosen from."""

from __future__ import annotations

import onnx

from quantcore.ir.model import FloatGraph

#: Outputs that are places among values: nothing is lost to rounding through them.
_PLACES = {
    **dict.fromkeys(("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero"), (0,)),
    "TopK": (1,),
}
#: Outputs that tell of a tensor, not of its values.
_SHAPES = {"Shape": (0,), "Size": (0,)}


def values_of(node: onnx.NodeProto) -> list[str]:
    """The outputs of a node that are neither places nor shapes."""
    others = _PLACES.get(node.op_type, _SHAPES.get(node.op_type, ()))
    return [name for position, name in enumerate(node.output) if position not in others]


def chosen_from(model: FloatGraph) -> tuple[str, ...]:
    """The tensors of floats that a graph chooses from, or by, in order; none where it does not.

    What lies behind a choice is not continuous: a change of the last bit can put two rows in
    another order. These tensors are, and what is behind them follows from them.
    """
    constants = {constant.name for constant in model.proto.graph.initializer}
    behind: set[str] = set()
    found: dict[str, None] = {}
    for node in model.proto.graph.node:
        places = [node.output[at] for at in _PLACES.get(node.op_type, ()) if at < len(node.output)]
        depends = not behind.isdisjoint(node.input)
        if places or depends:
            fresh = (i for i in node.input if i and i not in behind and i not in constants)
            found.update(dict.fromkeys(i for i in fresh if i not in model.not_floats))
            behind.update(node.output if depends else places)
    return tuple(found)
