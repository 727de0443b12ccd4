"""A float model opened in ONNX Runtime and observed by the calibrators of Model Optimizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from quantcore.contracts.graph_session import GraphSession
from quantcore.contracts.observing import blamed, largest, symmetric_range
from quantcore.ir.model import Array
from quantcore.qdq.placement import Site
from quantcore.runtime.progress import Progress
from quantcore.table.table import TensorRange
from quantcore_backend_modelopt.calibrators import Watch, changed


class ModelOptSession(GraphSession):
    """See BackendSession."""

    def _observe(
        self, sites: Sequence[Site], batches: Iterable[Array], progress: Progress
    ) -> Mapping[str, TensorRange]:
        amax: dict[str, object] = {}
        with tempfile.TemporaryDirectory(prefix="quantcore-") as folder:
            with changed():
                watches = self._watches(Path(folder), sites)
            for batch in batches:
                for watch in watches:
                    with blamed(watch.who, watch.tensors), changed():
                        watch.see({self.model.input_name: batch})
            for watch in progress.track(watches, f"{self.name}: finding thresholds"):
                with blamed(watch.who, watch.tensors), changed():
                    amax |= watch.amax()
        for site in sites:
            if site.role == "weight":
                amax[site.tensor] = largest(self.model.initializers[site.tensor], site.axis)
        return {site.tensor: symmetric_range(site, amax[site.tensor]) for site in sites}

    def _watches(self, folder: Path, sites: Sequence[Site]) -> list[Watch]:
        """A calibrator for each observer among the activations."""
        by_observer: dict[str, list[str]] = {}
        for site in sites:
            if site.role == "activation":
                by_observer.setdefault(site.policy.observer, []).append(site.tensor)
        watches = []
        for observer, tensors in by_observer.items():
            own = folder / observer
            own.mkdir()
            watches.append(Watch(self.model.proto, own, observer, tensors))
        return watches
