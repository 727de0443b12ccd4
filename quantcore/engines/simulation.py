"""A backend's own fake-quant forward as an engine, so that the one evaluator can score it."""

from __future__ import annotations

from quantcore.contracts.backend import BackendSession
from quantcore.contracts.engine import Engine, EngineLayer
from quantcore.ir.model import Array


class SimulationEngine(Engine):
    """Runs `simulate` of a session that has had a table applied; closes the session with itself.

    Nothing of the shared Q/DQ graph takes part: the framework quantizes its own network.

    Args:
        session: Of any backend with capability `simulate`.
    """

    def __init__(self, session: BackendSession) -> None:
        model = session.model
        self._session = session
        self.input_name = model.input_name
        self.input_shape = (model.batch_size, 3, *model.preprocessing.size)
        self.output_names = model.output_names

    def _infer(self, batch: Array) -> list[Array]:
        heads = self._session.simulate(batch)
        return [heads[name] for name in self.output_names]

    def layers(self) -> list[EngineLayer]:
        """None: the framework computes in float and tells nothing."""
        return []

    def close(self) -> None:
        """See Engine."""
        self._session.close()
