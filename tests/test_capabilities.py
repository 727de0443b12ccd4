"""What backends are asked for against what they declare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from quantcore.analysis.agreement import noise
from quantcore.calibration.driver import calibrate
from quantcore.contracts.backend import BackendPlugin, SessionOptions, Support
from quantcore.contracts.capabilities import (
    Capabilities,
    check_capabilities,
    check_simulates,
    simulates,
)
from quantcore.errors import BackendError, CapabilityError, UsageError

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


def test_a_native_observer_that_is_missing_names_the_portable_one(net, planned) -> None:
    plan = planned(net, activations={"observer": "entropy"})
    with pytest.raises(CapabilityError, match=r"no observer 'entropy'.*layer '.+'\)$"):
        check_capabilities("acme", NATIVE, plan)
    both = replace(NATIVE, implementations=frozenset({"native", "portable"}))
    with pytest.raises(CapabilityError, match="; `implementation: portable` takes quantcore's own"):
        check_capabilities("acme", both, plan)


def test_a_plan_in_float64_needs_a_backend_that_has_it(net, planned) -> None:
    wide = replace(NATIVE, implementations=frozenset({"portable"}))
    plan = planned(net, implementation="portable", arithmetic="float64")
    with pytest.raises(CapabilityError, match="'acme' cannot compute in float64; it has float32"):
        check_capabilities("acme", wide, plan)
    both = frozenset({"float32", "float64"})
    check_capabilities("acme", replace(wide, arithmetics=both), plan)


class Opening(BackendPlugin):
    """Opens whatever it is told to, as `opened` then tells."""

    capabilities = replace(NATIVE, devices=("cpu", "cuda"), simulate=Support.FULL)
    opened: SessionOptions | None = None
    session: ClassVar[Any]

    def versions(self):
        return {}

    def _open(self, model, options):
        self.opened = options
        return self.session(model, options)


@pytest.fixture(autouse=True)
def opening(node_session, monkeypatch) -> None:
    monkeypatch.setattr(Opening, "session", node_session, raising=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"arithmetic": "float64"}, "'acme' cannot compute in float64; it has float32"),
        ({"arithmetic": "int8"}, "'acme' cannot compute in int8; it has float32"),
        ({"device": "tpu"}, "'acme' has no device 'tpu' here; it has: cpu, cuda"),
        ({"device": "CPU"}, "'acme' has no device 'CPU' here; it has: cpu, cuda"),
    ],
)
def test_options_that_are_not_there_are_refused_before_anything_is_opened(net, options, told):
    plugin = Opening("acme")
    with pytest.raises(CapabilityError, match=told):
        plugin.open(net, SessionOptions(**options))
    assert plugin.opened is None


def test_a_session_is_opened_as_it_is_told_to(net) -> None:
    plugin = Opening("acme")
    assert plugin.open(net).options == SessionOptions()
    for device in ("auto", "cpu", "cuda"):
        options = SessionOptions(device=device, threads=2)
        assert plugin.open(net, options).options == plugin.opened == options
    with pytest.raises(UsageError, match="threads must be 1 or more, not 0"):
        SessionOptions(threads=0)


@pytest.mark.parametrize(
    ("support", "symmetric", "told"),
    [
        (Support.NONE, True, "'acme' has no fake-quant forward"),
        (Support.SYMMETRIC, True, None),
        (Support.SYMMETRIC, False, "'acme' simulates symmetric codes only"),
        (Support.FULL, False, None),
    ],
)
def test_a_simulation_has_degrees(net, planned, support, symmetric, told) -> None:
    known = replace(NATIVE, simulate=support)
    activations = {"observer": "max", "symmetric": symmetric}
    plan = planned(net, activations=activations, placement="onnxruntime")
    assert simulates(known, plan) == (told is None)
    if told is None:
        check_simulates("acme", known, plan)
        return
    with pytest.raises(CapabilityError, match=told):
        check_simulates("acme", known, plan)


def test_two_simulations_do_not_disturb_each_other(node_session, net, planned, table) -> None:
    plan, images = planned(net, activations={"observer": "max"}), noise(net)
    wide = table(net, plan).tensors
    narrow = table(net, plan, amax={"images": 0.5}).tensors
    with node_session(net) as session:
        float_heads = session.forward(images)
        first, second = session.simulation(plan, wide), session.simulation(plan, narrow)
        before = first.infer(images)
        other = second.infer(images)
        after = first.infer(images)
        again = session.forward(images)
    for name in net.output_names:
        np.testing.assert_array_equal(before[name], after[name])
        np.testing.assert_array_equal(float_heads[name], again[name])
        assert not np.array_equal(before[name], other[name])


def test_what_forces_other_tensors_than_it_is_told_to_is_caught(
    node_session, net, planned, table, monkeypatch
) -> None:
    plan = planned(net, activations={"observer": "max"})
    with node_session(net) as session:
        simulation = session.simulation(plan, table(net, plan).tensors)
        infer = simulation._infer
        monkeypatch.setattr(simulation, "_infer", lambda batch, *_: infer(batch, {}, {}))
        simulation.infer(noise(net))
        with pytest.raises(BackendError, match=r"'nodes' broke its contract: .* t1"):
            simulation.infer(noise(net), {"t1": np.zeros((1, 8, 8, 8), np.float32)})


def test_an_activation_that_is_kept_back_is_told(net, given_session, monkeypatch) -> None:
    session = given_session(net, lambda tensor, batch: batch)
    monkeypatch.setattr(session, "_watch", lambda batch, show: show["t1"](batch))
    session.watch(noise(net), {"t1": lambda values: None})
    with pytest.raises(BackendError, match="'given' broke its contract: did not show t2"):
        session.watch(noise(net), {"t1": lambda values: None, "t2": lambda values: None})


def test_activations_are_shown_in_float32_whatever_they_were_computed_in(
    net, given_session
) -> None:
    seen = []
    session = given_session(net, lambda tensor, batch: batch.astype(np.float64) / 3)
    session.watch(noise(net), {"t1": seen.append})
    assert seen[0].dtype == np.float32
    np.testing.assert_array_equal(seen[0], (noise(net).astype(np.float64) / 3).astype(np.float32))


def test_a_calibration_is_in_the_arithmetic_that_its_plan_says(net, given_session, planned) -> None:
    def unread():
        raise AssertionError("an image was read")
        yield

    session = given_session(net, lambda tensor, batch: batch)
    assert calibrate(session, planned(net, implementation="portable"), [noise(net)])
    plan = planned(net, implementation="portable", arithmetic="float32")
    told = "'given': the policy calibrates in float32, this session computes in float64"
    with pytest.raises(CapabilityError, match=told):
        calibrate(session, plan, unread())
