"""The GPU session against CUDA libraries and a TensorRT played in memory: order, shapes, timing."""

from __future__ import annotations

import numpy as np
import pytest

from quantcore.errors import EngineError
from quantcore.evaluation.latency import LatencyTest, measure

from .played_cuda import RUN_MS


def _batch(size: int, start: float = 0) -> np.ndarray:
    return np.arange(start, start + size * 6, dtype=np.float32).reshape(size, 2, 3)


@pytest.mark.parametrize("capturable", [True, False])
def test_every_batch_size_gives_its_own_numbers(played, capturable) -> None:
    played.gpu.capturable = capturable
    with played.open() as engine:
        assert engine.runs_on() == "Played (SM89)"
        assert (engine.input_name, engine.output_names) == ("images", ("y",))
        assert engine.input_shape == (None, 2, 3)
        kept = []
        for turn, size in enumerate((1, 4, 1, 3, 4, 1)):
            batch = _batch(size, turn)
            kept.append((engine.infer(batch)["y"], batch * 2))
        for got, want in kept:
            np.testing.assert_array_equal(got, want)
    assert played.gpu.runs == 6
    assert played.gpu.launches == (3 if capturable and played.graphs else 0)


@pytest.mark.parametrize("capturable", [True, False])
def test_events_time_the_network_without_the_copies(played, capturable) -> None:
    played.gpu.capturable = capturable
    with played.open() as engine:
        assert engine.device_seconds(_batch(2)) == pytest.approx(RUN_MS / 1e3)
        before = played.gpu.runs
        found = measure([engine], LatencyTest(batch=_batch(4), warmup=1, runs=5)).result()
        assert found.device_p50_ms == pytest.approx(RUN_MS)
        assert played.gpu.runs - before == 1 + 5 + 5
        assert 0 < found.p50_ms < RUN_MS  # wall time: the played GPU takes none
        with pytest.raises(EngineError, match=r"batch of 5.*up to 4"):
            engine.device_seconds(_batch(5))


def test_everything_is_given_back(played) -> None:
    engine = played.open()
    engine.infer(_batch(2))
    engine.infer(_batch(2))
    engine.close()
    engine.close()
    assert played.gpu.memory == {}
    with pytest.raises(EngineError, match="closed"):
        engine.infer(_batch(1))


def test_a_batch_beyond_the_plan_is_refused(played) -> None:
    with played.open() as engine, pytest.raises(EngineError, match=r"batch of 5.*up to 4"):
        engine.infer(_batch(5))


def test_a_plan_that_does_not_load_is_an_error(played) -> None:
    with pytest.raises(EngineError, match="played 0 cannot run the plan here"):
        played.open(b"other")
    assert played.gpu.memory == {}
