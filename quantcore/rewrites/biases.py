"""Bias correction: what rounding weights does to the mean of an output is taken from its bias.

Nagel et al. 2019 (arXiv:1906.04721, section 4.2): rounding W to W' moves the mean of an output by
(W' - W) E[x]. The inputs' means are those of the float network: each layer makes up for its own
rounding alone. What rounding in earlier layers does to x is not counted here, for they make up for
it themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from quantcore.contracts.engine import EnginePlugin
from quantcore.contracts.rewrite import Rewrite
from quantcore.data.batches import Batches
from quantcore.ir.edits import Names, add_constant, attributes, nodes_by_name, with_constants
from quantcore.ir.model import FloatModel, LayerInfo
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.qdq.scales import codes_of, symmetric_scale
from quantcore.results.rewrites import Rewritten
from quantcore.rewrites.patches import Moments, Values, moments, rounded_layers
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable

#: Inputs of each layer that are looked at in each image.
_PATCHES = 4096


class BiasCorrection(Rewrite):
    """Corrects the biases of convolutions and matrix products; weights stay as they are."""

    preserves_float = False
    needs_table = True
    ensures = (
        "rounding weights moves the mean of no output; weights and ranges stay as they are, the "
        "float network does not"
    )
    makes = "corrected"

    def _apply(
        self,
        model: FloatModel,
        table: CalibrationTable | None,
        batches: Batches,
        engine: EnginePlugin,
        options: object,
        progress: Progress,
    ) -> Rewritten:
        assert table is not None
        sites = plan(model, CalibrationPolicy.from_dict(table.provenance.policy))
        layers = rounded_layers(model, sites)
        watched = progress.track(batches.inputs(), "inputs of layers")
        seen = moments(model, [layer for layer, _ in layers], watched, engine, _PATCHES)
        shifts: dict[str, Values] = {}
        for layer, site in layers:
            weight = np.asarray(model.initializers[site.tensor], np.float64)
            scale = symmetric_scale(table.tensors[site.tensor], site.policy.code)
            shape = [1] * weight.ndim
            if site.axis is not None:
                shape[site.axis] = -1
            spread = scale.astype(np.float64).reshape(shape)
            rounded = np.clip(np.rint(weight / spread), *codes_of(site.policy)) * spread
            shifts[layer.name] = corrected(model, layer, rounded, seen[layer.name])
        found = with_values(model, {}, shifts)
        origin = replace(table.provenance, fingerprint=found.fingerprint)
        names = [layer.name for layer, _ in layers]
        return Rewritten(
            found,
            replace(table, provenance=origin),
            f"the biases of {len(names)} layers corrected",
            {"layers": names},
        )


def corrected(model: FloatModel, layer: LayerInfo, rounded: Values, seen: Moments) -> Values:
    """What to add to a layer's bias.

    Args:
        model: The float model.
        layer: A convolution or a matrix product of it.
        rounded: Its weight as it will be, in the graph's layout.
        seen: Of its inputs.
    """
    node = graph_of(model, layer)
    before, _ = matrix(node, np.asarray(model.initializers[layer.weights[0]]))
    after, _ = matrix(node, rounded)
    groups = len(seen.mean)
    error = (before - after).reshape(groups, -1, before.shape[1])
    found: Values = np.einsum("gok,gk->go", error, seen.mean).reshape(-1)
    return found


def takes_bias(model: FloatModel, layer: LayerInfo) -> bool:
    """Whether a layer has a bias of its own, or can be given one."""
    node = graph_of(model, layer)
    if node.op_type == "MatMul":
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    readers = [name for other in model.proto.graph.node for name in other.input]
    return node.input[2] in model.initializers and readers.count(node.input[2]) == 1


def graph_of(model: FloatModel, layer: LayerInfo) -> onnx.NodeProto:
    """The node of a layer."""
    return nodes_by_name(model.proto.graph)[layer.name]


def matrix(
    node: onnx.NodeProto, weight: npt.NDArray[np.generic]
) -> tuple[Values, Callable[[Values], Values]]:
    """A weight as outputs x K in float64, and the way back to the graph's layout."""
    values = weight.astype(np.float64)
    if node.op_type == "Conv":
        return values.reshape(len(values), -1), lambda rows: rows.reshape(weight.shape)
    if attributes(node).get("transB", 0):
        return values, lambda rows: rows
    return values.T, lambda rows: rows.T


def with_values(
    model: FloatModel, weights: Mapping[str, Values], shifts: Mapping[str, Values]
) -> FloatModel:
    """The model with other weights, and with biases moved; a layer without one is given one.

    A matrix product without a bias (MatMul) cannot have one and stays as it is, as do layers that
    share their bias.
    """
    proto = with_constants(
        model.proto, {name: values.astype(np.float32) for name, values in weights.items()}
    )
    names = Names.of(proto.graph)
    moved: dict[str, npt.NDArray[np.generic]] = {}
    taking = {layer.name for layer in model.layers if takes_bias(model, layer)}
    for node in proto.graph.node:
        shift = shifts.get(node.name)
        if shift is None or node.name not in taking:
            continue
        if len(node.input) < 3 or not node.input[2]:
            bias = add_constant(proto.graph, names.fresh(f"{node.name}.bias"), np.float32(shift))
            del node.input[2:]
            node.input.append(bias)
        else:
            own = np.asarray(model.initializers[node.input[2]], np.float64)
            moved[node.input[2]] = (own + shift.reshape(own.shape)).astype(np.float32)
    return replace(model, proto=with_constants(proto, moved))
