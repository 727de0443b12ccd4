"""What of a network a backend is given, and what is left to the engines."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from quantcore.analysis.agreement import audit, check_parity
from quantcore.calibration.driver import calibrate
from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.front import Front, front, whole
from quantcore.contracts.registry import load_engine
from quantcore.engines.onnxruntime import OnnxRuntimeTail
from quantcore.engines.simulation import SimulationEngine
from quantcore.ir.model import FloatModel
from quantcore.qdq.insertion import insert

node = helper.make_node


def detector(build: Callable[..., FloatModel]) -> FloatModel:
    """A convolution, and the best three of what it makes, as YOLO26 ends; a raw head beside it."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32) / 5
    nodes = [
        node("Conv", ["images", "w"], ["t0"], "conv", strides=[4, 4]),
        node("Relu", ["t0"], ["raw"], "act"),
        node("Reshape", ["raw", "flat"], ["rows"], "rows"),
        node("Transpose", ["rows"], ["boxes"], "turn", perm=[0, 2, 1]),
        node("ReduceMax", ["boxes"], ["score"], "score", axes=[-1], keepdims=0),
        node("TopK", ["score", "three"], ["best", "where"], "pick", axis=1),
        node("Unsqueeze", ["where", "last"], ["index"], "index"),
        node("Tile", ["index", "four"], ["indices"], "tile"),
        node("GatherElements", ["boxes", "indices"], ["y"], "gather", axis=1),
    ]
    constants = {
        "w": weight,
        "flat": np.array([0, 4, -1]),
        "three": np.array([3]),
        "last": np.array([-1]),
        "four": np.array([1, 1, 4]),
    }
    return build(nodes, constants, ("y", "raw"))


@pytest.fixture
def model(build: Callable[..., FloatModel]) -> FloatModel:
    return detector(build)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((2, 3, 16, 16)).astype(np.float32)


def test_the_tail_begins_where_something_picks(model: FloatModel, planned: Callable) -> None:
    cut = front(model, [planned(model)])
    assert isinstance(cut, Front)
    assert [n.name for n in cut.proto.graph.node] == ["conv", "act", "rows", "turn", "score"]
    assert cut.output_names == ("raw", "score", "boxes")
    assert [n.name for n in cut.tail.graph.node] == ["pick", "index", "tile", "gather"]
    assert [o.name for o in cut.tail.graph.output] == ["y"]
    assert "four" not in cut.initializers
    assert whole(cut) is model


def test_front_and_tail_are_the_whole(
    model: FloatModel, planned: Callable, run: Callable, images: np.ndarray
) -> None:
    cut = front(model, [planned(model)])
    assert isinstance(cut, Front)
    found = run(cut.proto, images)
    tail = OnnxRuntimeTail(cut.tail, EngineOptions(exact=True))
    found |= tail.infer({"images": images, **found})
    for name, values in run(model.proto, images).items():
        np.testing.assert_array_equal(found[name], values)


def test_it_begins_earlier_where_the_backend_lacks_an_operator(
    model: FloatModel, planned: Callable
) -> None:
    cut = front(model, [planned(model)], {"Conv", "Relu", "Reshape"})
    assert cut.output_names == ("raw", "rows")


def test_a_network_without_a_tail_is_itself(net: FloatModel, planned: Callable) -> None:
    assert front(net, [planned(net)]) is net
    assert whole(net) is net


def test_what_a_site_needs_stays(build: Callable, planned: Callable) -> None:
    nodes = [
        node("TopK", ["images", "two"], ["best", "where"], "pick", axis=2),
        node("Conv", ["best", "w"], ["y"], "conv"),
    ]
    model = build(nodes, {"two": np.array([2]), "w": np.ones((1, 3, 1, 1), np.float32)})
    assert front(model, [planned(model)], {"Conv"}) is model


def test_whole_numbers_are_reckoned_by_the_tail(build: Callable, planned: Callable) -> None:
    nodes = [
        node("Conv", ["images", "w"], ["t"], "conv"),
        node("Cast", ["t"], ["n"], "whole", to=TensorProto.INT64),
        node("Abs", ["n"], ["m"], "abs"),
        node("ArgMax", ["m"], ["y"], "pick", axis=1),
    ]
    model = build(nodes, {"w": np.ones((4, 3, 1, 1), np.float32)})
    cut = front(model, [planned(model)])
    assert isinstance(cut, Front)
    assert cut.output_names == ("t",)
    assert [n.name for n in cut.tail.graph.node] == ["whole", "abs", "pick"]


def test_it_travels_between_processes(model: FloatModel, planned: Callable) -> None:
    cut = front(model, [planned(model)])
    again = pickle.loads(pickle.dumps(cut))
    assert isinstance(again, Front)
    assert again.fingerprint == cut.fingerprint
    assert again.whole.fingerprint == model.fingerprint


def test_a_front_is_calibrated_simulated_and_audited(
    model: FloatModel,
    planned: Callable,
    node_session: Callable,
    table: Callable,
    images: np.ndarray,
) -> None:
    plan = planned(model, activations={"observer": "max"})
    engine = load_engine("onnxruntime")
    session = node_session(front(model, [plan]))
    assert check_parity(session, engine) <= 1e-4
    ranges: Any = calibrate(session, plan, [images])
    assert ranges.keys() == {site.tensor for site in plan.sites}
    quantized = insert(model, plan, table(model, plan))
    simulation = session.simulation(plan, table(model, plan).tensors)
    assert audit(simulation, quantized, plan, images, engine).worst_db > 60
    with SimulationEngine(simulation) as simulated:
        found = simulated.infer(images)
    assert set(found) >= {"y", "raw"}
    with engine.build(quantized.proto, EngineOptions(exact=True)) as built:
        expected = built.infer(images)
    for name, values in expected.items():
        assert found[name].shape == values.shape
    np.testing.assert_allclose(found["y"], expected["y"], atol=1e-5)
