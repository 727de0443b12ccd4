"""What backends are asked for against what they declare."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quantcore.analysis.agreement import noise
from quantcore.calibration.driver import calibrate
from quantcore.contracts.capabilities import Capabilities, check_capabilities
from quantcore.contracts.remote.wire import planned as planned_over_there
from quantcore.contracts.remote.wire import written
from quantcore.errors import BackendError, CapabilityError

NATIVE = Capabilities(
    {"max": frozenset()}, {"max": frozenset(), "mse": frozenset()}, bits=frozenset({8})
)


def test_weights_by_max_have_one_range_at_every_width(net, planned) -> None:
    activations = {"observer": "max"}
    seven = planned(net, activations=activations, weights={"observer": "max", "bits": 7})
    check_capabilities("acme", NATIVE, seven)
    other = planned(net, activations=activations, weights={"observer": "mse", "bits": 7})
    with pytest.raises(CapabilityError, match=r"backend 'acme' has no 7 bits; it has 8 \(weight "):
        check_capabilities("acme", NATIVE, other)


def test_a_plan_in_float64_needs_a_backend_that_has_it(net, planned) -> None:
    wide = replace(NATIVE, implementations=frozenset({"portable"}))
    plan = planned(net, implementation="portable", arithmetic="float64")
    with pytest.raises(CapabilityError, match="'acme' cannot compute in float64; it has float32"):
        check_capabilities("acme", wide, plan)
    both = frozenset({"float32", "float64"})
    check_capabilities("acme", replace(wide, arithmetics=both), plan)
    assert planned_over_there(written(plan)).arithmetic == "float64"


def test_an_arithmetic_that_is_not_there_is_refused(node_session, net) -> None:
    with node_session(net) as session:
        session.compute_in("float32")
        with pytest.raises(CapabilityError, match="'nodes' cannot compute in float64; it"):
            session.compute_in("float64")
        assert session.arithmetic == "float32"


def test_another_arithmetic_forgets_the_table(node_session, net, planned, table) -> None:
    plan = planned(net, activations={"observer": "max"})
    images = noise(net)
    with node_session(net) as session:
        session.capabilities = replace(
            session.capabilities, arithmetics=frozenset({"float32", "float64"})
        )
        session._compute_in = lambda arithmetic: None
        session.apply(plan, table(net, plan).tensors)
        session.compute_in("float32")
        session.simulate(images)
        session.compute_in("float64")
        with pytest.raises(BackendError, match="apply a table"):
            session.simulate(images)


def test_a_calibration_computes_in_what_its_plan_says(node_session, net, planned) -> None:
    images = noise(net)
    wanted: list[str] = []
    with node_session(net) as session:
        both = frozenset({"float32", "float64"})
        kinds = frozenset({"native", "portable"})
        session.capabilities = replace(
            session.capabilities, arithmetics=both, implementations=kinds
        )
        session._compute_in = lambda arithmetic: None
        observe = session._observe

        def watched(batch, see):
            wanted.append(session.arithmetic)
            for show in see.values():
                show(batch)

        def observed(*given):
            wanted.append(session.arithmetic)
            return observe(*given)

        session._watch, session._observe = watched, observed
        portable = planned(net, implementation="portable")
        native = planned(net, activations={"observer": "max"})
        calibrate(session, portable, [images])
        session.collect([portable], [images])
        session.collect([native], [images])
        calibrate(session, planned(net, implementation="portable", arithmetic="float32"), [images])
        assert wanted == ["float64", "float64", "float32", "float32"]
        assert session.arithmetic == "float32"
        session.compute_in("float64")
        calibrate(session, native, [images])
        assert wanted[4:] == ["float32"]
        assert session.arithmetic == "float64"
