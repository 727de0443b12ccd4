"""A float model opened in ONNX Runtime and observed batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np  # noqa: F401 - for what is yours to write

from quantcore.contracts.graph_session import GraphSession
from quantcore.contracts.observing import largest, symmetric_range
from quantcore.ir.model import Array
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.runtime.progress import Progress
from quantcore.table.table import TensorRange


def amax_of(policy: TensorPolicy, values: Array, before: float) -> float:
    """Where the range of an activation ends: the one function that is yours to write.

    It is called for each observed tensor with every batch.

    Args:
        policy: What is asked for, such as `observer: max`; only what the plugin declares arrives.
        values: The tensor, as the float network computes it; finite.
        before: What the function returned for the batch before; 0 for the first.

    Returns:
        The largest magnitude that an INT8 code must span.
    """
    raise NotImplementedError("amax_of is yours to write; see its docstring")


class TemplateSession(GraphSession):
    """See BackendSession."""

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        amax: dict[str, object] = {}
        for site in sites:
            if site.role == "weight":
                amax[site.tensor] = largest(self.model.initializers[site.tensor], site.axis)
        ends = {site.tensor: 0.0 for site in sites if site.role == "activation"}
        for site, values in self.activations(sites, batches):
            ends[site.tensor] = amax_of(site.policy, values, ends[site.tensor])
        amax |= ends
        return {site.tensor: symmetric_range(site, amax[site.tensor]) for site in sites}
