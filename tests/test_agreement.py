"""Parity and audit: the good case, and planted faults that they must find."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantcore.analysis.agreement import audit, check_parity, noise, sqnr_db
from quantcore.calibration.driver import calibrate
from quantcore.contracts.registry import load_engine
from quantcore.errors import ParityError
from quantcore.ir.model import QdqModel
from quantcore.qdq.insertion import insert
from quantcore.results.audit import SimulationAudit


@pytest.fixture(scope="module")
def engine():
    return load_engine("onnxruntime")


@pytest.fixture
def session(net, node_session):
    return node_session(net)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).random((2, 3, 16, 16), dtype=np.float32)


@pytest.fixture
def audited(net, session, planned, table, images, engine):
    """Audits the net, with the Q/DQ graph changed by `tamper`."""

    def make(tamper: Any = lambda proto: None) -> SimulationAudit:
        sites = planned(net, activations={"observer": "max"})
        ranges = calibrate(session, sites, [images])
        found = table(net, sites, amax={n: r.amax for n, r in ranges.items() if r.axis is None})
        proto = insert(net, sites, found).proto
        tamper(proto)
        with session.simulation(sites, ranges) as simulation:
            return audit(simulation, QdqModel(proto, {}), sites, images, engine)

    return make


def edit(proto: onnx.ModelProto, name: str, change: Any) -> None:
    constant = next(i for i in proto.graph.initializer if i.name == name)
    values = numpy_helper.to_array(constant)
    changed = np.asarray(change(values.copy())).astype(values.dtype)
    constant.CopyFrom(numpy_helper.from_array(changed, name))


def test_sqnr_is_ten_log_of_the_power_ratio() -> None:
    signal = {"a": np.array([3.0, 4.0], np.float32), "b": np.array([5.0], np.float32)}
    other = {"a": np.array([3.0, 4.0], np.float32), "b": np.array([5.5], np.float32)}
    assert sqnr_db(signal, other) == pytest.approx(10 * math.log10(50 / 0.25))


def test_equal_signals_have_no_noise() -> None:
    signal = {"a": np.zeros(3, np.float32)}
    assert sqnr_db(signal, signal) == math.inf
    assert sqnr_db(signal, {"a": np.ones(3, np.float32)}) == -math.inf


def test_nan_on_either_side_is_the_worst_there_is() -> None:
    # A plain nan would get lost where the worst of several tensors is sought.
    fine, bad = {"a": np.ones(2, np.float32)}, {"a": np.full(2, np.nan, np.float32)}
    assert sqnr_db(fine, bad) == sqnr_db(bad, fine) == -math.inf


def test_sums_are_taken_in_double() -> None:
    a = np.full(10_000_000, 1e-4, np.float32)
    a[0] = 1e4
    assert sqnr_db({"a": a}, {"a": a * np.float32(0)}) == pytest.approx(0, abs=1e-12)
    big = {"a": np.full(4, 1e30, np.float32)}
    assert sqnr_db(big, {"a": np.full(4, 2e30, np.float32)}) == pytest.approx(0, abs=1e-5)


def test_other_tensors_are_ignored() -> None:
    a = {"a": np.ones(3, np.float32)}
    assert sqnr_db(a, {**a, "extra": np.zeros(1, np.float32)}) == math.inf


def test_a_sound_backend_passes_the_audit(audited) -> None:
    found = audited()
    assert found.worst_db >= 50
    assert found.heads_db >= 50
    assert found.end_to_end_db >= 50
    assert found.worst_tensor in {"t1", "t3", "t6", "y", "z"}


@pytest.mark.parametrize(
    ("constant", "change", "suspects"),
    [
        ("t1.scale", lambda v: v * 2, {"t3", "t6", "y"}),
        ("images.scale", lambda v: v / 2, {"t1"}),
        ("t3.scale", lambda v: v * 1.02, {"y"}),
        ("w0.scale", lambda v: v * np.where(np.arange(8) == 3, 2, 1), {"t1"}),
        ("w4.quantized", lambda v: v ^ (np.arange(v.size) == 5).reshape(v.shape) * 16, {"z"}),
        ("w3.quantized", lambda v: np.roll(v, 1, axis=1), {"y"}),
        ("b2", lambda v: v * 0, {"t3"}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_planted_fault_is_found_where_it_is(audited, constant, change, suspects) -> None:
    found = audited(lambda proto: edit(proto, constant, change))
    assert found.worst_db < 50
    assert found.worst_tensor in suspects


def test_a_missing_pair_is_found(audited) -> None:
    def unplug(proto: onnx.ModelProto) -> None:
        conv = next(n for n in proto.graph.node if n.name == "m.2.conv")
        conv.input[0] = "t1"

    found = audited(unplug)
    assert found.worst_db < 50
    assert found.worst_tensor == "t3"


def test_nan_is_no_agreement(audited) -> None:
    found = audited(lambda proto: edit(proto, "w3.scale", lambda v: v * np.nan))
    assert not found.worst_db >= 50
    assert not found.heads_db >= 50
    assert found.worst_tensor == "y"


def test_the_floor_is_what_one_ulp_of_a_scale_does(audited) -> None:
    found = audited()
    assert math.isfinite(found.floor_db)
    assert found.floor_db > 10


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 51.5])
def test_an_audit_is_valid_json(value: float) -> None:
    data = SimulationAudit(
        worst_db=value, worst_tensor="t", heads_db=value, end_to_end_db=value, floor_db=value
    ).to_dict()
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text)["worst_tensor"] == "t"
    if value == 51.5:
        assert data["worst_db"] == 51.5


def test_auditing_changes_neither_graph(audited) -> None:
    kept: list[tuple[onnx.ModelProto, bytes]] = []
    audited(lambda proto: kept.append((proto, proto.SerializeToString())))
    proto, before = kept[0]
    assert proto.SerializeToString() == before


def test_parity_of_a_sound_backend_is_a_small_number(session, engine) -> None:
    assert 0 <= check_parity(session, engine) <= 1e-5


@pytest.mark.parametrize(
    "change",
    [lambda h: h * np.float32(1.001), lambda h: h * np.float32("nan"), lambda h: np.zeros_like(h)],
    ids=["scaled", "nan", "zero"],
)
@pytest.mark.parametrize("head", [0, 1])
def test_parity_names_the_head_that_differs(session, engine, monkeypatch, change, head) -> None:
    forward = session._forward

    def broken(batch: np.ndarray) -> list[np.ndarray]:
        heads = list(forward(batch))
        heads[head] = change(heads[head])
        return heads

    monkeypatch.setattr(session, "_forward", broken)
    name = session.model.output_names[head]
    with pytest.raises(ParityError, match=f"'nodes'.*output '{name}'"):
        check_parity(session, engine)


def test_noise_is_seeded_and_lies_in_the_range_of_the_input(net) -> None:
    one, two = noise(net), noise(net)
    np.testing.assert_array_equal(one, two)
    assert one.shape == (1, 3, 16, 16)
    assert one.dtype == np.float32
    assert 0 <= one.min() < 0.1
    assert 0.9 < one.max() <= 1
