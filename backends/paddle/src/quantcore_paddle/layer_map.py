"""One table between quantcore's layers and Paddle's PTQRegistry; imports no framework."""

from __future__ import annotations

from dataclasses import dataclass

from quantcore.contracts.backend import FrameworkLayer
from quantcore.ir.model import LayerInfo


@dataclass(frozen=True)
class Row:
    """What a neutral op is called in Paddle.

    Attributes:
        op: Neutral op.
        cls: Paddle's class, as a person imports it.
        inputs: Paddle's argument names of the inputs, in the order of `LayerInfo.inputs`.
        weights: Likewise of the weights.
        outputs: Likewise of the outputs.
        registered: Whether Paddle's PTQRegistry knows the class.
        materialised: Whether the network holds a layer of the class for the op; where not, the
            op is a plain function call.
    """

    op: str
    cls: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    registered: bool = True
    materialised: bool = True


TABLE: tuple[Row, ...] = (
    Row("conv2d", "paddle.nn.Conv2D", ("Input",), ("Filter",), ("Output",)),
    # Not in PTQ_LAYERS_INFO (ptq_registry.py:32-48 of 3.3.1), so that Paddle's own API leaves it
    # in float. Paddle's quantizers take it all the same: spec_channel_axis_layers
    # (imperative/utils.py:71) gives its channel axis, and the names are those of its operator.
    Row(
        "conv_transpose2d",
        "paddle.nn.Conv2DTranspose",
        ("Input",),
        ("Filter",),
        ("Output",),
        registered=False,
    ),
    Row("linear", "paddle.nn.Linear", ("X",), ("Y",), ("Out",)),
    Row("add", "paddle.nn.quant.add", ("X", "Y"), (), ("Out",)),
    Row("max_pool", "paddle.nn.MaxPool2D", ("X",), (), ("Out",)),
    Row("max_pool", "paddle.nn.AdaptiveMaxPool2D", ("X",), (), ("Out",), materialised=False),
    # A neutral avg_pool may be ONNX's global one, which no single class of Paddle stands for.
    Row("avg_pool", "paddle.nn.AvgPool2D", ("X",), (), ("Out",), materialised=False),
    Row("avg_pool", "paddle.nn.AdaptiveAvgPool2D", ("X",), (), ("Out",), materialised=False),
)

_BY_OP = {row.op: row for row in TABLE if row.materialised}
_BY_CLASS = {row.cls: row for row in TABLE}


def framework_layer(layer: LayerInfo) -> FrameworkLayer | None:
    """The Paddle layer that a neutral layer becomes; None where it is a plain function call."""
    row = _BY_OP.get(layer.op)
    if row is None or len(row.inputs) != len(layer.inputs):
        return None
    return FrameworkLayer(row.cls, row.inputs, row.weights, row.outputs)


def neutral_layer(
    name: str, cls: str, tensors: dict[str, str], weights: dict[str, str]
) -> LayerInfo | None:
    """The neutral layer of a Paddle one; None where no neutral op stands for its class.

    Args:
        name: The layer's module path.
        cls: Paddle's class, as a person imports it.
        tensors: Activations by Paddle's argument name.
        weights: Weights by Paddle's argument name.
    """
    row = _BY_CLASS.get(cls)
    if row is None:
        return None
    return LayerInfo(
        name,
        row.op,
        tuple(tensors[argument] for argument in row.inputs),
        tuple(weights[argument] for argument in row.weights),
        tuple(tensors[argument] for argument in row.outputs),
    )
