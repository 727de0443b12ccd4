"""A backend's own fake-quant forward as an engine, so that the one evaluator can score it."""

from __future__ import annotations

from quantcore.contracts.engine import Engine, EngineLayer, EngineOptions
from quantcore.contracts.front import Front, whole
from quantcore.contracts.session import Simulation
from quantcore.engines.onnxruntime import OnnxRuntimeTail
from quantcore.ir.model import Array


class SimulationEngine(Engine):
    """Runs a simulation, and closes it with itself.

    Nothing of the shared Q/DQ graph takes part: the framework quantizes its own network. Where it
    was given the front of a model alone, the float tail runs in ONNX Runtime.

    Args:
        simulation: Of a session of any backend with capability `simulate`.
    """

    def __init__(self, simulation: Simulation) -> None:
        model = whole(simulation.model)
        self._simulation = simulation
        self._tail = None
        if isinstance(simulation.model, Front):
            self._tail = OnnxRuntimeTail(simulation.model.tail, EngineOptions())
        self.input_name = model.input_name
        self.input_shape = (model.batch_size, 3, *model.preprocessing.size)
        self.output_names = model.output_names

    def _infer(self, batch: Array) -> list[Array]:
        heads = self._simulation.infer(batch)
        if self._tail is not None:
            heads |= self._tail.infer({self.input_name: batch, **heads})
        return [heads[name] for name in self.output_names]

    def layers(self) -> list[EngineLayer]:
        """None: the framework computes in float and tells nothing."""
        return []

    def close(self) -> None:
        """See Engine."""
        self._simulation.close()
