"""A float model opened in ONNX Runtime and observed by its calibraters."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from quantcore.contracts.graph_session import GraphSession
from quantcore.contracts.observing import blamed, largest, symmetric_range
from quantcore.ir.model import Array
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.placement import Site
from quantcore.runtime.progress import Progress
from quantcore.table.table import TensorRange
from quantcore_backend_onnxruntime.calibraters import Watch


class OnnxRuntimeSession(GraphSession):
    """See BackendSession."""

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        amax: dict[str, object] = {}
        with tempfile.TemporaryDirectory(prefix="quantcore-") as folder:
            watches = self._watches(Path(folder), sites)
            for batch in batches:
                for watch in watches:
                    with blamed(watch.who, watch.tensors):
                        watch.see({self.model.input_name: batch})
            for watch in progress.track(watches, f"{self.name}: finding thresholds"):
                with blamed(watch.who, watch.tensors):
                    amax |= watch.amax()
        for site in sites:
            if site.role == "weight":
                amax[site.tensor] = largest(self.model.initializers[site.tensor], site.axis)
        return {site.tensor: symmetric_range(site, amax[site.tensor]) for site in sites}

    def _watches(self, folder: Path, sites: Sequence[Site]) -> list[Watch]:
        """A calibrater for each policy among the activations."""
        by_policy: dict[TensorPolicy, list[str]] = {}
        for site in sites:
            if site.role == "activation":
                by_policy.setdefault(site.policy, []).append(site.tensor)
        watches = []
        for number, (policy, tensors) in enumerate(by_policy.items()):
            own = folder / str(number)
            own.mkdir()
            watches.append(Watch(self.model.proto, own, policy, tensors))
        return watches
