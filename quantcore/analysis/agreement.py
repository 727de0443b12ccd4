"""How well two forward passes agree: signal-to-noise, and the parity of a materialised network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quantcore.contracts.engine import EngineOptions, EnginePlugin
from quantcore.contracts.parity import PARITY_LIMIT, check_finite, disagreement
from quantcore.contracts.session import BackendSession, Simulation
from quantcore.errors import ParityError
from quantcore.ir.edits import exposed, nudged
from quantcore.ir.model import Array, FloatModel, QdqModel
from quantcore.qdq.placement import Plan
from quantcore.results.audit import SimulationAudit


def sqnr_db(reference: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Signal-to-quantization-noise ratio over all heads together.

    10 * log10(sum(reference**2) / sum((reference - other)**2)), sums in float64; infinite where
    the two are equal, minus infinite where either holds NaN or only the reference is zero.

    Args:
        reference: Heads by name.
        other: The same heads.
    """
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in reference.values())
    noise = sum(
        float(np.square(a.astype(np.float64) - other[name]).sum()) for name, a in reference.items()
    )
    if noise == 0:
        return float("inf")
    if not (signal > 0 and np.isfinite(noise)):
        return float("-inf")
    return float(10 * np.log10(signal / noise))


def check_parity(session: BackendSession, engine: EnginePlugin) -> float:
    """Holds a materialised network against the float graph, on seeded noise.

    Args:
        session: The materialised network.
        engine: Runs the float graph.

    Returns:
        Largest difference over the largest magnitude of a head, the worst of the heads.

    Raises:
        ParityError: It exceeds 1e-4; names the head.
    """
    batch = noise(session.model)
    with engine.build(session.model.proto, EngineOptions()) as built:
        expected = built.infer(batch)
    check_finite(session.model, expected)
    error, name = disagreement(expected, session.forward(batch))
    if not error <= PARITY_LIMIT:
        raise ParityError(
            f"backend {session.name!r}: its network differs from the float graph by "
            f"{error:.1e} relative at output {name!r} (limit {PARITY_LIMIT:.0e}); this is a "
            "fault of the backend, please report it"
        )
    return error


def audit(
    simulation: Simulation, qdq: QdqModel, plan: Plan, batch: Array, engine: EnginePlugin
) -> SimulationAudit:
    """Holds the shared Q/DQ graph against the framework's own simulation.

    Args:
        simulation: With a table.
        qdq: The graph made from the same table.
        plan: The sites of both.
        batch: Real images, B x 3 x H x W.
        engine: Runs the Q/DQ graph exactly, node by node.
    """
    heads = simulation.model.output_names
    watched = [
        site.tensor
        for site in plan.sites
        if site.role == "activation" and site.tensor != simulation.model.input_name
    ]
    with engine.build(exposed(qdq.proto, (*watched, *heads)), EngineOptions(exact=True)) as built:
        shared = built.infer(batch)
    with engine.build(exposed(nudged(qdq.proto), heads), EngineOptions(exact=True)) as built:
        moved = built.infer(batch)
    layered = simulation.infer(batch, {name: shared[name] for name in watched})
    free = simulation.infer(batch)
    by_tensor = {name: sqnr_db({name: shared[name]}, layered) for name in layered}
    worst = min(by_tensor, key=by_tensor.__getitem__)
    ends = {name: shared[name] for name in heads}
    return SimulationAudit(
        worst_db=by_tensor[worst],
        worst_tensor=worst,
        heads_db=sqnr_db(ends, layered),
        end_to_end_db=sqnr_db(ends, free),
        floor_db=sqnr_db(ends, moved),
    )


def noise(model: FloatModel) -> Array:
    """One seeded noise image in the model's input range, 1 x 3 x H x W."""
    height, width = model.preprocessing.size
    pixels = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
    batch: Array = pixels * np.float32(255 * model.preprocessing.scale)
    return batch
