"""A session whose network is the float graph itself, for frameworks that work on ONNX graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from quantcore.contracts.capabilities import Capabilities
from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.observing import finite
from quantcore.contracts.session import BackendSession, SessionOptions
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel
from quantcore.qdq.placement import Site


class GraphSession(BackendSession):
    """See BackendSession; what is left to write is how ranges are found.

    Args:
        name: See BackendSession, as the next three.
        model: As there.
        capabilities: As there.
        options: As there.
        engine: Runs the float graph.
    """

    def __init__(
        self,
        name: str,
        model: FloatModel,
        capabilities: Capabilities,
        options: SessionOptions,
        engine: EnginePlugin,
    ) -> None:
        super().__init__(name, model, capabilities, options)
        self._engine = engine
        self._float = engine.build(model.proto, EngineOptions(threads=options.threads))

    def _forward(self, batch: Array) -> Sequence[Array]:
        heads = self._float.infer(batch)
        return [heads[name] for name in self.model.output_names]

    def activations(
        self, sites: Iterable[Site], batches: Iterable[Array]
    ) -> Iterator[tuple[Site, Array]]:
        """The values of observed activations, batch by batch; sites of weights are passed over.

        Args:
            sites: What to observe.
            batches: Network inputs; read once, in order.

        Raises:
            RangeError: NaN or infinite; names tensor and layers.
        """
        watched = [site for site in sites if site.role == "activation"]
        graph = exposed(self.model.proto, (site.tensor for site in watched))
        options = EngineOptions(exact=True, threads=self.options.threads)
        with self._engine.build(graph, options) as engine:
            for batch in batches:
                values = {self.model.input_name: batch, **engine.infer(batch)}
                for site in watched:
                    yield site, finite(site, values[site.tensor])

    def close(self) -> None:
        """See BackendSession."""
        self._float.close()
