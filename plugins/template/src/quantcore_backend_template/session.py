"""A float model opened in ONNX Runtime and observed batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from quantcore.contracts.backend import BackendSession, Capabilities, symmetric_range
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.errors import RangeError
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
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
        amax: dict[str, object] = {}
        for site in sites:
            if site.role == "weight":
                amax[site.tensor] = _largest(self.model.initializers[site.tensor], site.axis)
        ends = {site.tensor: 0.0 for site in watched}
        graph = exposed(self.model.proto, (site.tensor for site in watched))
        with load_engine("onnxruntime").build(graph, EngineOptions(exact=True)) as engine:
            for batch in batches:
                values = {self.model.input_name: batch, **engine.infer(batch)}
                for site in watched:
                    seen = _finite(site, values[site.tensor])
                    ends[site.tensor] = amax_of(site.policy, seen, ends[site.tensor])
        amax |= ends
        return {site.tensor: symmetric_range(site, amax[site.tensor]) for site in sites}

    def close(self) -> None:
        """See BackendSession."""
        self._float.close()


def _largest(weight: np.ndarray, axis: int | None) -> object:
    """Largest magnitude of a weight, or of each channel along the axis."""
    rest = tuple(i for i in range(weight.ndim) if i != axis)
    return np.abs(weight).max(axis=rest) if axis is not None else np.abs(weight).max()


def _finite(site: Site, values: Array) -> Array:
    """The values; NaN would pass unseen through most ways of taking a maximum."""
    if not np.isfinite(values).all():
        layers = ", ".join(site.consumers)
        raise RangeError(f"activation {site.tensor!r} of layer {layers}: NaN or infinite values")
    return values
