"""The promises that come with a declared capability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantcore.analysis.agreement import audit
from quantcore.calibration.driver import calibrate
from quantcore.calibration.portable import weight_ranges
from quantcore.contracts import registry
from quantcore.contracts.capabilities import simulates
from quantcore.contracts.engine import EngineOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.ir.edits import exposed
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.insertion import insert
from quantcore.table.table import TensorRange
from quantcore.testing.exact import in_float64
from quantcore.testing.models import Stream, images
from quantcore.testing.operators import CASES, Dice, hold_to_reference
from quantcore.testing.under_test import BackendUnderTest, hold, magnitudes, table_of

AUDIT_LIMIT_DB = 50.0

Ends = float | tuple[float, ...]


def max_is_exact(backend: BackendUnderTest) -> None:
    """`max` gives the largest magnitude that the float graph produces."""
    model, sites, ranges = backend.ranges(backend.policy("max"))
    expected = magnitudes(model, sites, np.concatenate(list(Stream(16))))
    for tensor, amax in expected.items():
        found = float(ranges[tensor].amax_array)
        hold(abs(found - amax) <= 1e-4 * amax, f"{tensor}: {found} instead of {amax}")


def batches_do_not_matter(backend: BackendUnderTest) -> None:
    """The batch size changes no `max`."""
    policy = backend.policy("max")
    by_size = [backend.ranges(policy, batch_size=size)[2] for size in (1, 5)]
    for tensor, one in by_size[0].items():
        close = np.allclose(one.amax_array, by_size[1][tensor].amax_array, rtol=1e-5)
        hold(close, f"{tensor}: {one.amax} against {by_size[1][tensor].amax}")


def weights_have_their_axis(backend: BackendUnderTest) -> None:
    """Per-channel weight ranges are those of the output channels."""
    model, sites, ranges = backend.ranges(backend.policy())
    for site in (s for s in sites.sites if s.role == "weight"):
        weight = np.abs(model.initializers[site.tensor])
        other = tuple(i for i in range(weight.ndim) if i != site.axis)
        expected = weight.max(axis=other) if site.axis is not None else weight.max()
        close = np.allclose(ranges[site.tensor].amax_array, expected, rtol=1e-5)
        hold(close, f"{site.tensor}: not the maxima along axis {site.axis}")


def portable_is_portable(backend: BackendUnderTest) -> None:
    """The portable observers find on its activations what they find on the float graph's."""
    exact = "float64" in backend.plugin.capabilities.arithmetics
    policy = replace(
        backend.policy(),
        implementation="portable",
        arithmetic="float64" if exact else "float32",
        activations=TensorPolicy("percentile"),
    )
    model, sites, ranges = backend.ranges(policy)
    names = [s.tensor for s in sites.sites if s.role == "activation" and s.tensor != "images"]
    from quantcore.calibration.collector import Collector  # late: imports numba

    collector = Collector(sites.sites)
    engine = registry.load_engine(REFERENCE_ENGINE)
    with engine.build(exposed(model.proto, names), EngineOptions()) as built:
        for batch in Stream(16):
            for name, values in {"images": batch, **built.infer(batch)}.items():
                if name in collector.sites:
                    collector.see(name, values)
    wanted = {**weight_ranges(sites, model), **collector.ranges()}
    for tensor, expected in wanted.items():
        close = np.allclose(ranges[tensor].amax_array, expected.amax_array, rtol=1e-3)
        hold(close, f"{tensor}: {ranges[tensor].amax} instead of {expected.amax}")


def simulation_matches_graph(backend: BackendUnderTest) -> None:
    """The shared Q/DQ graph and the framework's own simulation agree in every layer."""
    model, sites, ranges = backend.ranges(backend.policy())
    qdq = insert(model, sites, table_of(backend, model, ranges))
    engine = registry.load_engine(REFERENCE_ENGINE)
    with backend.open(model) as session, session.simulation(sites, ranges) as simulation:
        found = audit(simulation, qdq, sites, images(4), engine)
    hold(found.worst_db >= AUDIT_LIMIT_DB, f"{found.worst_tensor}: {found.worst_db:.1f} dB")


def float64_rounds_nothing(backend: BackendUnderTest) -> None:
    """In float64, network and simulation are what the graphs are in float64."""
    model, sites, ranges = backend.ranges(backend.policy())
    batch = images(4)
    with backend.open(model, arithmetic="float64") as session:
        found = {"network": (session.forward(batch), model.proto)}
        if simulates(session.capabilities, sites):
            qdq = insert(model, sites, table_of(backend, model, ranges))
            with session.simulation(sites, ranges) as simulation:
                found["simulation"] = (simulation.infer(batch), qdq.proto)
    for what, (heads, graph) in found.items():
        for name, exact in in_float64(graph, batch).items():
            # Heads are float32: half of its last bit, which is 2**-24, and a little for float64.
            close = np.allclose(heads[name], exact, rtol=2**-24, atol=1e-9)
            hold(close, f"the {what} rounds more at {name} than float64 does")


def operators_agree(backend: BackendUnderTest) -> None:
    """Each operator that is declared computes what ONNX Runtime computes, in a few random forms."""
    known = backend.plugin.capabilities
    for op in sorted((known.operators or frozenset()) & CASES.keys()):
        for arithmetic in sorted(known.arithmetics):
            hold_to_reference(backend.plugin, CASES[op](Dice(0)), arithmetic)


def simulation_leaves_float_alone(backend: BackendUnderTest) -> None:
    """`forward` stays the float network while a simulation is open; the simulation does not."""
    model, sites, ranges = backend.ranges(backend.policy())
    with backend.open(model) as session:
        before = session.forward(images(2))["head.out"]
        with session.simulation(sites, ranges) as simulation:
            made = session.forward(images(2))["head.out"]
            simulated = simulation.infer(images(2))["head.out"]
            used = session.forward(images(2))["head.out"]
        after = session.forward(images(2))["head.out"]
    for found, when in ((made, "made"), (used, "used"), (after, "closed")):
        hold(np.array_equal(before, found), f"the float network changed: a simulation was {when}")
    hold(not np.array_equal(before, simulated), "the simulation is the float network")


def simulations_stand_side_by_side(backend: BackendUnderTest) -> None:
    """Two simulations of one session disturb neither each other nor a calibration."""
    model, sites, ranges = backend.ranges(backend.policy())
    halved = {
        name: found
        if found.role == "weight"
        else TensorRange(found.role, _half(found.min), _half(found.max), found.axis)
        for name, found in ranges.items()
    }
    alone = []
    for table in (ranges, halved):
        with backend.open(model) as session, session.simulation(sites, table) as simulation:
            alone.append(simulation.infer(images(2))["head.out"])
    hold(not np.array_equal(alone[0], alone[1]), "a simulation has other ranges than it was given")
    with backend.open(model) as session:
        both = [session.simulation(sites, table) for table in (ranges, halved)]
        found = calibrate(session, sites, Stream(16))
        first = [simulation.infer(images(2))["head.out"] for simulation in both]
        both[1].close()
        again = both[0].infer(images(2))["head.out"]
        both[0].close()
    hold(found == ranges, "simulations changed what a calibration finds")
    hold(all(map(np.array_equal, first, alone)), "a second simulation changed the first")
    hold(np.array_equal(again, alone[0]), "closing a simulation changed another")


def _half(end: Ends) -> Ends:
    return tuple(value / 2 for value in end) if isinstance(end, tuple) else end / 2
