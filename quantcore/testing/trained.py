"""The promises of a backend that trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.contracts.training import Rates, Target, TrainingSpec
from quantcore.engines import REFERENCE_ENGINE
from quantcore.ir.edits import exposed
from quantcore.ir.model import Array, FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, plan
from quantcore.table.table import TensorRange
from quantcore.testing.models import images, plain_network
from quantcore.testing.under_test import BackendUnderTest, hold
from quantcore.training.reference_run import ReferenceRun

#: Of weights, against the reference in float64.
LIMIT = 1e-6
_RATES = Rates(weights=1e-3, scales=1e-2)
#: Ends of the activations' range as a share of the largest magnitude: some values are clipped.
_CLIPPED = 0.7


def step_is_the_reference(backend: BackendUnderTest) -> None:
    """In float64, training steps give the weights and ranges that the definition gives."""
    model, sites, ranges, targets = prepared()
    batch = images(2)
    spec = TrainingSpec(layers=_weighted(model))
    reference = ReferenceRun(model, sites.sites, ranges, spec)
    with (
        backend.open(model, arithmetic="float64") as session,
        session.training(sites, ranges, spec) as run,
    ):
        for _ in range(2):
            expected, found = (r.step(batch, targets, _RATES) for r in (reference, run))
            for name, loss in expected.items():
                close = bool(np.isclose(found[name], loss, rtol=1e-9))
                hold(close, f"loss of {name}: {found[name]} instead of {loss}")
        weights, moved = run.weights(), run.ranges()
    for name, values in reference.weights().items():
        error = float(np.abs(weights[name] - values).max())
        hold(error <= LIMIT, f"{name}: {error:.1e} from the reference's weights")
    for name, range_ in reference.ranges().items():
        close = np.allclose(moved[name].amax_array, range_.amax_array, rtol=LIMIT)
        hold(close, f"{name}: range {moved[name].amax} instead of {range_.amax}")


def training_goes_on(backend: BackendUnderTest) -> None:
    """A state that was kept gives the same next step, to the last bit."""
    model, sites, ranges, targets = prepared()
    spec = TrainingSpec(layers=_weighted(model))
    found = []
    with backend.open(model) as session:
        with session.training(sites, ranges, spec) as run:
            run.step(images(2), targets, _RATES)
            state = run.state()
            run.step(images(2), targets, _RATES)
            found.append(run.weights())
        with session.training(sites, ranges, spec) as run:
            run.restore(state)
            run.step(images(2), targets, _RATES)
            found.append(run.weights())
    same = all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    hold(same, "a restored training takes another step")


def training_leaves_float_alone(backend: BackendUnderTest) -> None:
    """The session's network stays the float one, and the float model as it is."""
    model, sites, ranges, targets = prepared()
    fingerprint = model.fingerprint
    with backend.open(model) as session:
        before = session.forward(images(2))
        with session.training(sites, ranges, TrainingSpec(layers=_weighted(model))) as run:
            run.step(images(2), targets, _RATES)
            between = session.forward(images(2))
        for name, head in before.items():
            hold(np.array_equal(head, between[name]), f"head {name} is another one in training")
    hold(model.fingerprint == fingerprint, "the float model has changed")


def prepared() -> tuple[FloatModel, Plan, dict[str, TensorRange], dict[str, Target]]:
    """A network, what of it is quantized (two tensors with one scale), ranges and targets."""
    model = plain_network()
    policy = CalibrationPolicy.from_dict({"placement": "minimal"})
    sites = plan(model, policy)
    together = tuple(
        replace(s, group="pair") if s.tensor in ("stem.act.out", "join.out") else s
        for s in sites.sites
    )
    sites = replace(sites, sites=together)
    watched = [s.tensor for s in sites.sites if s.role == "activation" and s.tensor != "images"]
    engine = load_engine(REFERENCE_ENGINE)
    with engine.build(exposed(model.proto, watched), EngineOptions()) as built:
        values = {"images": images(2), **built.infer(images(2))}
    ranges = {}
    for site in sites.sites:
        if site.role == "weight":
            ranges[site.tensor] = _weight_range(model, site.tensor, site.axis)
        else:
            amax = _CLIPPED * float(np.abs(values[site.tensor]).max())
            ranges[site.tensor] = TensorRange.symmetric("activation", amax)
    random = np.random.default_rng(3)
    targets = {}
    for name in ("join.out", "head.out"):
        weights = random.random(values[name].shape, np.float32)
        wanted: Array = values[name] + random.standard_normal(weights.shape, np.float32)
        labels = random.random(weights.shape, np.float32)
        targets[name] = Target(wanted, weights, labels if name == "head.out" else labels[:0])
    return model, sites, ranges, targets


def _weight_range(model: FloatModel, name: str, axis: int | None) -> TensorRange:
    weight = np.abs(model.initializers[name])
    rest = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    return TensorRange.symmetric("weight", weight.max(axis=rest), axis)


def _weighted(model: FloatModel) -> frozenset[str]:
    return frozenset(layer.name for layer in model.layers if layer.weights)
