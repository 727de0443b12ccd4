"""A float model opened in ONNX Runtime and observed by the calibrators of Model Optimizer."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantcore.contracts.backend import BackendSession, Capabilities, symmetric_range
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.errors import BackendError, QuantcoreError
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site
from quantcore.table.table import TensorRange
from quantcore_backend_modelopt.calibrators import Watch, changed


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
        amax: dict[str, object] = {}
        with tempfile.TemporaryDirectory(prefix="quantcore-") as folder:
            with changed():
                watches = self._watches(Path(folder), sites)
            for batch in batches:
                for watch in watches:
                    with _translated(watch), changed():
                        watch.see({self.model.input_name: batch})
            for watch in self.progress.track(watches, f"{self.name}: finding thresholds"):
                with _translated(watch), changed():
                    amax |= watch.amax()
        for site in sites:
            if site.role == "weight":
                amax[site.tensor] = _largest(self.model.initializers[site.tensor], site.axis)
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

    def close(self) -> None:
        """See BackendSession."""
        self._float.close()


def _largest(weight: npt.NDArray[np.generic], axis: int | None) -> object:
    """Largest magnitude of a weight, or of each channel: what Model Optimizer gives weights."""
    magnitude = np.abs(weight)
    rest = tuple(i for i in range(weight.ndim) if i != axis)
    return magnitude.max() if axis is None else magnitude.max(axis=rest)


@contextlib.contextmanager
def _translated(watch: Watch) -> Iterator[None]:
    """Turns whatever a calibrator raises into an error that names what it was watching."""
    try:
        yield
    except QuantcoreError:
        raise
    except Exception as error:  # NumPy's, ONNX Runtime's, Model Optimizer's
        reason = " ".join(str(error).split())[:300]
        tensors = ", ".join(map(repr, watch.tensors))
        raise BackendError(
            f"Model Optimizer's {watch.observer} calibrator failed on {tensors}: "
            f"{type(error).__name__}: {reason}; give the layers observer max"
        ) from error
