"""A float model opened in ONNX Runtime, as NNCF opens ONNX graphs, and watched by NNCF."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from quantcore.contracts.backend import BackendSession, Capabilities, symmetric_range
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.errors import BackendError, RangeError
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore.table.table import TensorRange
from quantcore_backend_nncf.estimators import Estimator, largest


class Session(BackendSession):
    """See BackendSession."""

    def __init__(self, name: str, model: FloatModel, capabilities: Capabilities) -> None:
        super().__init__(name, model, capabilities)
        self._float = load_engine("onnxruntime").build(model.proto, EngineOptions())

    def _forward(self, batch: Array) -> Sequence[Array]:
        heads = self._float.infer(batch)
        return [heads[name] for name in self.model.output_names]

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array]
    ) -> Mapping[str, TensorRange]:
        watched = [site for site in sites if site.role == "activation"]
        estimators = {site.tensor: Estimator(site.policy) for site in watched}
        graph = exposed(self.model.proto, (site.tensor for site in watched))
        with load_engine("onnxruntime").build(graph, EngineOptions(exact=True)) as engine:
            for batch in batches:
                values = {self.model.input_name: batch, **engine.infer(batch)}
                for site in watched:
                    estimators[site.tensor].see(_finite(site, values[site.tensor]))
        ranges = {}
        for site in self.progress.track(sites, f"{self.name}: estimating ranges"):
            if site.role == "weight":
                weight = np.asarray(self.model.initializers[site.tensor], dtype=np.float32)
                ranges[site.tensor] = symmetric_range(site, largest(weight, site.axis))
            else:
                ranges[site.tensor] = _range_of(site, estimators[site.tensor])
        return ranges

    def close(self) -> None:
        """See BackendSession."""
        self._float.close()


def _finite(site: Site, values: Array) -> Array:
    """The values; NNCF's quantiles and histograms are not made for NaN."""
    if not np.isfinite(values).all():
        layers = ", ".join(site.consumers)
        raise RangeError(
            f"activation {site.tensor!r} of layer {layers}: NaN or infinite; check the weights"
        )
    return values


def _range_of(site: Site, estimator: Estimator) -> TensorRange:
    try:
        amax = estimator.amax()
    except Exception as error:  # whatever NNCF raises on data it cannot bin
        raise BackendError(
            f"activation {site.tensor!r} of layer {', '.join(site.consumers)}: NNCF finds no "
            f"{site.policy.observer!r} range: {error}; give the layer observer max"
        ) from error
    return symmetric_range(site, amax)
