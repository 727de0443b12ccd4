"""A float model opened in ONNX Runtime, as NNCF opens ONNX graphs, and watched by NNCF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from quantcore.contracts.graph_session import GraphSession
from quantcore.contracts.observing import place, symmetric_range
from quantcore.errors import BackendError
from quantcore.ir.model import Array
from quantcore.qdq.placement import Site
from quantcore.runtime.progress import Progress
from quantcore.table.table import TensorRange
from quantcore_backend_nncf.estimators import Estimator, largest


class NncfSession(GraphSession):
    """See BackendSession."""

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        watched = [site for site in sites if site.role == "activation"]
        estimators = {site.tensor: Estimator(site.policy) for site in watched}
        for site, values in self.activations(watched, batches):
            estimators[site.tensor].see(values)
        ranges = {}
        for site in progress.track(sites, f"{self.name}: estimating ranges"):
            if site.role == "weight":
                weight = np.asarray(self.model.initializers[site.tensor], dtype=np.float32)
                ranges[site.tensor] = symmetric_range(site, largest(weight, site.axis))
            else:
                ranges[site.tensor] = _range_of(site, estimators[site.tensor])
        return ranges


def _range_of(site: Site, estimator: Estimator) -> TensorRange:
    try:
        amax = estimator.amax()
    except Exception as error:  # whatever NNCF raises on data it cannot bin
        raise BackendError(
            f"{place(site)}: NNCF finds no {site.policy.observer!r} range: {error}; give the "
            "layer observer max"
        ) from error
    return symmetric_range(site, amax)
