"""GPTQ: weights rounded so that the errors of a layer's outputs cancel, not those of its weights.

Frantar et al. 2022 (arXiv:2210.17323): the weights of an output channel are rounded one after the
other, and what rounding one did to the output is made up for by those not rounded yet, by the
second moments of the layer's inputs. Those with the strongest inputs come first. Nothing is
trained: a factorization for each layer.

A layer whose bias takes up the mean of what rounding does, (W' - W) E[x], is left with an error of
(W' - W) (x - E[x]): its moments are those about the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from quantcore.contracts.engine import EnginePlugin
from quantcore.contracts.options import option
from quantcore.contracts.rewrite import Rewrite
from quantcore.data.batches import Batches
from quantcore.errors import UsageError
from quantcore.ir.model import FloatModel, LayerInfo
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, Site, plan
from quantcore.qdq.scales import codes_of, symmetric_scale
from quantcore.results.rewrites import Rewritten
from quantcore.rewrites.biases import corrected, graph_of, matrix, takes_bias, with_values
from quantcore.rewrites.patches import Values, moments, rounded_layers
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable

#: Inputs whose errors are passed on to all later ones at once (the paper's lazy batches).
_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class RoundingOptions:
    """How weights are rounded.

    Attributes:
        patches: Inputs of each layer that are looked at in each image.
        damping: Added to the diagonal, as a share of its mean, so that it can be factorized.
        biases: Whether what rounding does to the mean of an output is taken from its bias.
    """

    patches: int = option(512, "Inputs of each layer that are looked at in each image.")
    damping: float = option(0.01, "Added to the diagonal, as a share of its mean.")
    biases: bool = option(True, "Takes what rounding does to an output's mean from its bias.")

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that make no sense."""
        if self.patches < 1 or not self.damping > 0:
            raise UsageError("patches must be 1 or more, and damping above 0")


class Rounding(Rewrite):
    """Rounds the weights of convolutions and matrix products to their codes, in their ranges."""

    preserves_float = False
    needs_table = True
    ensures = (
        "weights lie on their codes, rounded so that outputs change least; every range stays as it "
        "is, the float network does not"
    )
    makes = "rounded"
    options = RoundingOptions

    def _apply(
        self,
        model: FloatModel,
        table: CalibrationTable | None,
        batches: Batches,
        engine: EnginePlugin,
        options: RoundingOptions,
        progress: Progress,
    ) -> Rewritten:
        assert table is not None
        sites = plan_of(model, table)
        layers = rounded_layers(model, sites)
        watched = progress.track(batches.inputs(), "inputs of layers")
        infos = [layer for layer, _ in layers]
        seen = moments(model, infos, watched, engine, options.patches)
        weights: dict[str, Values] = {}
        shifts: dict[str, Values] = {}
        for layer, site in progress.track(layers, "rounding"):
            own = seen[layer.name]
            biased = options.biases and takes_bias(model, layer)
            second = own.centred if biased else own.second
            rounded = _rounded(model, layer, site, table, second, options.damping)
            weights[site.tensor] = rounded
            if biased:
                shifts[layer.name] = corrected(model, layer, rounded, own)
        found = with_values(model, weights, shifts)
        origin = replace(table.provenance, fingerprint=found.fingerprint)
        summary = f"the weights of {len(layers)} layers rounded" + (
            ", their biases corrected" if options.biases else ""
        )
        return Rewritten(
            found, replace(table, provenance=origin), summary, {"layers": [i.name for i in infos]}
        )


def plan_of(model: FloatModel, table: CalibrationTable) -> Plan:
    """What the policy of a table quantizes."""
    return plan(model, CalibrationPolicy.from_dict(table.provenance.policy))


def _rounded(
    model: FloatModel,
    layer: LayerInfo,
    site: Site,
    table: CalibrationTable,
    moments_: Values,
    damping: float,
) -> Values:
    """A layer's weight on its codes, in the graph's layout."""
    rows, back = matrix(graph_of(model, layer), np.asarray(model.initializers[site.tensor]))
    scale = symmetric_scale(table.tensors[site.tensor], site.policy.code).astype(np.float64)
    scales = np.broadcast_to(scale, (len(rows),)) if scale.ndim == 0 else scale
    found = np.empty_like(rows)
    each = len(rows) // len(moments_)
    for group, second in enumerate(moments_):
        part = slice(group * each, (group + 1) * each)
        found[part] = gptq(rows[part], second, scales[part], codes_of(site.policy), damping)
    return back(found)


def gptq(
    weight: Values, second: Values, scales: Values, ends: tuple[int, int], damping: float
) -> Values:
    """Rows of weights on codes.

    Args:
        weight: Outputs x K.
        second: K x K, the sum of products of the inputs.
        scales: Of each output's codes.
        ends: Smallest and largest code.
        damping: See `RoundingOptions`.
    """
    diagonal = np.diag(second).copy()
    order = np.argsort(-diagonal, kind="stable")
    damped = second[np.ix_(order, order)].copy()
    damped[np.diag_indices_from(damped)] += damping * max(float(diagonal.mean()), 1e-12)
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T  # upper: of the inverse
    # K x outputs: what is rounded at a time, and what is moved by it, lie together.
    left = np.ascontiguousarray(weight[:, order].T, np.float64)
    rounded, errors = np.empty_like(left), np.empty_like(left)
    for first in range(0, len(left), _BLOCK):
        last = min(first + _BLOCK, len(left))
        for n in range(first, last):
            rounded[n] = np.clip(np.rint(left[n] / scales), *ends) * scales
            errors[n] = (left[n] - rounded[n]) / factor[n, n]
            left[n + 1 : last] -= np.outer(factor[n, n + 1 : last], errors[n])
        left[last:] -= factor[first:last, last:].T @ errors[first:last]
    found = np.empty((left.shape[1], len(left)))
    found[:, order] = rounded.T
    return found
