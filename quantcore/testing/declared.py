"""The promises that come with a declared capability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantcore.analysis.agreement import audit
from quantcore.calibration.portable import See, observe
from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.engines import REFERENCE_ENGINE
from quantcore.ir.edits import exposed
from quantcore.policy.policy import TensorPolicy
from quantcore.qdq.insertion import insert
from quantcore.testing.exact import in_float64
from quantcore.testing.models import Stream, images
from quantcore.testing.subject import Subject, hold, magnitudes, table_of

AUDIT_LIMIT_DB = 50.0


def max_is_exact(subject: Subject) -> None:
    """`max` gives the largest magnitude that the float graph produces."""
    model, sites, ranges = subject.ranges(subject.policy("max"))
    expected = magnitudes(model, sites, np.concatenate(list(Stream(16))))
    for tensor, amax in expected.items():
        found = float(ranges[tensor].amax_array)
        hold(abs(found - amax) <= 1e-4 * amax, f"{tensor}: {found} instead of {amax}")


def batches_do_not_matter(subject: Subject) -> None:
    """The batch size changes no `max`."""
    policy = subject.policy("max")
    by_size = [subject.ranges(policy, batch_size=size)[2] for size in (1, 5)]
    for tensor, one in by_size[0].items():
        close = np.allclose(one.amax_array, by_size[1][tensor].amax_array, rtol=1e-5)
        hold(close, f"{tensor}: {one.amax} against {by_size[1][tensor].amax}")


def weights_have_their_axis(subject: Subject) -> None:
    """Per-channel weight ranges are those of the output channels."""
    model, sites, ranges = subject.ranges(subject.policy())
    for site in (s for s in sites.sites if s.role == "weight"):
        weight = np.abs(model.initializers[site.tensor])
        other = tuple(i for i in range(weight.ndim) if i != site.axis)
        expected = weight.max(axis=other) if site.axis is not None else weight.max()
        close = np.allclose(ranges[site.tensor].amax_array, expected, rtol=1e-5)
        hold(close, f"{site.tensor}: not the maxima along axis {site.axis}")


def portable_is_portable(subject: Subject) -> None:
    """The portable observers find on its activations what they find on the float graph's."""
    exact = "float64" in subject.plugin.capabilities.arithmetics
    policy = replace(
        subject.policy(),
        implementation="portable",
        arithmetic="float64" if exact else "float32",
        activations=TensorPolicy("percentile"),
    )
    model, sites, ranges = subject.ranges(policy)
    names = [s.tensor for s in sites.sites if s.role == "activation" and s.tensor != "images"]
    engine = registry.load_engine(REFERENCE_ENGINE)

    def feed(see: See) -> None:
        with engine.build(exposed(model.proto, names), EngineOptions()) as built:
            for batch in Stream(16):
                for name, values in {"images": batch, **built.infer(batch)}.items():
                    if name in ("images", *names):
                        see(name, values)

    for tensor, expected in observe(sites, model, feed).items():
        close = np.allclose(ranges[tensor].amax_array, expected.amax_array, rtol=1e-3)
        hold(close, f"{tensor}: {ranges[tensor].amax} instead of {expected.amax}")


def simulation_matches_graph(subject: Subject) -> None:
    """The shared Q/DQ graph and the framework's own simulation agree in every layer."""
    model, sites, ranges = subject.ranges(subject.policy())
    qdq = insert(model, sites, table_of(subject, model, ranges))
    with subject.plugin.open(model, "cpu") as session:
        session.apply(sites, ranges)
        found = audit(session, qdq, sites, images(4), registry.load_engine(REFERENCE_ENGINE))
    hold(found.worst_db >= AUDIT_LIMIT_DB, f"{found.worst_tensor}: {found.worst_db:.1f} dB")


def float64_rounds_nothing(subject: Subject) -> None:
    """In float64, network and simulation are what the graphs are in float64."""
    model, sites, ranges = subject.ranges(subject.policy())
    batch = images(4)
    with subject.plugin.open(model, "cpu") as session:
        session.compute_in("float64")
        found = {"network": (session.forward(batch), model.proto)}
        if session.capabilities.simulate:
            session.apply(sites, ranges)
            qdq = insert(model, sites, table_of(subject, model, ranges))
            found["simulation"] = (session.simulate(batch), qdq.proto)
    for what, (heads, graph) in found.items():
        for name, exact in in_float64(graph, batch).items():
            # Heads are float32: half of its last bit, which is 2**-24, and a little for float64.
            close = np.allclose(heads[name], exact, rtol=2**-24, atol=1e-9)
            hold(close, f"the {what} rounds more at {name} than float64 does")


def simulation_leaves_float_alone(subject: Subject) -> None:
    """`forward` stays the float network after a table was applied; `simulate` does not."""
    model, sites, ranges = subject.ranges(subject.policy())
    with subject.plugin.open(model, "cpu") as session:
        before = session.forward(images(2))["head.out"]
        session.apply(sites, ranges)
        simulated = session.simulate(images(2))["head.out"]
        after = session.forward(images(2))["head.out"]
    hold(np.array_equal(before, after), "applying a table changed the float network")
    hold(not np.array_equal(before, simulated), "simulate is the float network")
