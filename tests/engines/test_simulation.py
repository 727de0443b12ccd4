"""A framework's own simulation behind the engine contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from quantcore.engines.simulation import SimulationEngine
from quantcore.errors import EngineError, RangeError
from quantcore.ir.model import FloatModel


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3, 16, 16)).astype(np.float32)


def test_it_runs_the_session_and_nothing_else(
    net: FloatModel, node_session: Callable, planned: Callable, table: Callable
) -> None:
    session, sites = node_session(net), planned(net)
    simulation = session.simulation(sites, table(net, sites).tensors)
    with SimulationEngine(simulation) as engine:
        for count in (1, 3):
            batch = images(count)
            found, wanted = engine.infer(batch), simulation.infer(batch)
            assert tuple(found) == net.output_names
            for name, head in found.items():
                np.testing.assert_array_equal(head, wanted[name])
            assert any((head != session.forward(batch)[n]).any() for n, head in found.items())
        assert engine.layers() == []
        with pytest.raises(EngineError, match="any x 3 x 16 x 16"):
            engine.infer(images(1)[:, :, :8])


def test_it_closes_the_simulation_and_not_the_session(
    net: FloatModel,
    node_session: Callable,
    planned: Callable,
    table: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, sites = node_session(net), planned(net)
    simulation = session.simulation(sites, table(net, sites).tensors)
    closed: list[object] = []
    for what in (session, simulation):
        monkeypatch.setattr(what, "close", lambda what=what: closed.append(what))
    SimulationEngine(simulation).close()
    assert closed == [simulation]


def test_a_table_without_a_range_is_refused(
    net: FloatModel, node_session: Callable, planned: Callable
) -> None:
    with pytest.raises(RangeError, match=r"'images' of layer 'm\.0\.conv': no range"):
        node_session(net).simulation(planned(net), {})
