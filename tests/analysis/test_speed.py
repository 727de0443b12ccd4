"""The fastest of the sets that meet a target: what is timed, and what counts as equal."""

from types import SimpleNamespace

import numpy as np
import pytest

from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.evaluation import latency
from quantcore.evaluation.latency import LatencyTest
from quantcore.policy.policy import CalibrationPolicy
from quantcore.report.studies import verdict
from quantcore.results.estimate import Estimate, Loss
from quantcore.results.latency import Latencies, LatencyResult
from quantcore.results.metric import COCO
from quantcore.results.mixed import Mixed, Point
from quantcore.runtime.executor import InProcess
from quantcore.runtime.jobs import Runtime
from quantcore.studies import speed

NOTHING = Estimate(0.0, 0.0, 0.0)


def point(kept: int, share: float, drop: float, latency: LatencyResult | None = None) -> Point:
    names = tuple(f"layer{n}" for n in range(kept))
    loss = Loss(NOTHING, NOTHING, 0.0, 0.0)
    return Point(kept=names, share=share, loss=loss, drop=drop, metric=COCO, latency=latency)


class Clocked:
    """An engine plugin whose graphs take the time that they are named after."""

    name = "clocked"

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.order = clock, []

    def versions(self) -> dict[str, str]:
        return {"clocked": "1"}

    def caveat(self) -> str:
        return "it only pretends"

    def build(self, proto: float, options: EngineOptions) -> "Clocked.Engine":
        return Clocked.Engine(self, proto)

    class Engine:
        def __init__(self, plugin: "Clocked", ms: float) -> None:
            self.plugin, self.ms = plugin, ms

        def __enter__(self) -> "Clocked.Engine":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def infer(self, batch: object) -> None:
            self.plugin.clock[0] += self.ms / 1e3
            self.plugin.order.append(self.ms)

        def device_seconds(self, batch: object) -> None:
            pass


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    clock = [0.0]
    monkeypatch.setattr(latency.time, "perf_counter", lambda: clock[0])
    plugin = Clocked(clock)
    monkeypatch.setattr(registry, "load_engine", lambda name: plugin)
    monkeypatch.setattr(speed, "load_engine", lambda name: plugin)
    monkeypatch.setattr(speed, "noise", lambda model: np.zeros(1))
    monkeypatch.setattr(latency, "graph_digest", repr)
    monkeypatch.setattr(speed, "keeping", lambda policy, kept: kept)
    return plugin


def timed(clocked: Clocked, graphs: list[float], runs: int) -> Latencies:
    test = LatencyTest(batch=np.zeros(1), runs=runs)
    return latency.latencies("clocked", EngineOptions(), graphs, test, Runtime(InProcess()))


def test_graphs_are_timed_in_turns_each_right_after_a_run_of_its_own(clocked: Clocked) -> None:
    found = timed(clocked, [30.0, 10.0], runs=20)
    assert [found.result(n).p50_ms for n in range(2)] == pytest.approx([30, 10])
    assert found.ratio(1).value == pytest.approx(1 / 3)
    counted = np.reshape(clocked.order[2 * 5 :], (20, 2, 2))
    assert (counted[:, :, 0] == counted[:, :, 1]).all()
    firsts = counted[:, 0, 0]
    assert {10.0, 30.0} == set(firsts)
    assert (counted[:, :, 0].sum(1) == 40).all()


def test_equal_graphs_are_equally_fast_and_timed_once(clocked: Clocked) -> None:
    found = timed(clocked, [30.0, 10.0, 30.0], runs=4)
    assert found.ratio(2) == found.ratio(0)
    assert found.ratio(2).value == found.ratio(2).high == 1
    assert clocked.order.count(30.0) == clocked.order.count(10.0)


def test_what_slows_the_machine_for_a_while_cancels_out_of_the_ratio() -> None:
    random = np.random.default_rng(0)
    slowed = np.where(np.arange(60) < 25, 3.0, 1.0)[:, None]
    wall = np.asarray([10.0, 8.0]) * slowed * random.normal(1, 0.02, (60, 2))
    found = Latencies(wall_ms=wall, device_ms=None, batch_size=1, others=0.5)
    ratio, alone = found.ratio(1), found.result(1)
    assert 0.78 < ratio.low < 0.8 < ratio.high < 0.82
    assert alone.mean_ms > 1.5 * 8
    assert alone.disturbed


def test_the_interval_holds_the_median_and_narrows() -> None:
    random = np.random.default_rng(0)
    few, many = (
        Latencies(
            wall_ms=random.normal(50, 5, (n, 1)), device_ms=None, batch_size=1, others=None
        ).result()
        for n in (20, 2000)
    )
    for found in (few, many):
        assert found.low_ms <= found.p50_ms <= found.high_ms
        assert not found.disturbed
    assert many.high_ms - many.low_ms < few.high_ms - few.low_ms


def study(points: list[Point], chosen: Point, times: dict[int, float]) -> tuple[object, Mixed]:
    subject = SimpleNamespace(
        model=SimpleNamespace(proto=80.0),
        policy=None,
        candidate=lambda name, kept: SimpleNamespace(proto=times[len(kept)]),
    )
    policy = CalibrationPolicy()
    return subject, Mixed(
        model="m",
        split="s",
        images=1,
        max_drop=0.01,
        confidence=0.8,
        min_int8=0.5,
        float_figure=NOTHING,
        chosen=chosen,
        met=True,
        points=tuple(points),
        policy=policy,
    )


def test_the_fastest_that_meets_the_target_is_chosen(clocked: Clocked) -> None:
    points = [point(0, 1.0, 0.2), point(2, 0.9, 0.01), point(4, 0.8, 0.005), point(7, 0.4, 0.0)]
    subject, found = study(points, points[1], {0: 20.0, 2: 50.0, 4: 40.0, 7: 10.0})
    best = speed.fastest(subject, found, "clocked", Runtime(InProcess()), rounds=3)
    # The first loses too much, the last leaves too little in INT8.
    assert len(best.chosen.kept) == 4
    assert best.policy == best.chosen.kept
    assert best.chosen in best.points
    assert best.speed is not None
    assert best.speed.whole.p50_ms == pytest.approx(80)
    assert {len(p.kept): p.latency.p50_ms for p in best.points} == pytest.approx(
        {0: 20, 2: 50, 4: 40, 7: 10}
    )
    assert [len(p.kept) for p in best.frontier] == [7, 4]
    assert "40.0 ms on clocked, the float model 80.0 ms" in best.__class__.policy_yaml(
        speed.replace(best, policy=CalibrationPolicy())
    )


def test_the_verdict_says_that_the_float_model_is_faster(clocked: Clocked) -> None:
    points = [point(2, 0.9, 0.01)]
    subject, found = study(points, points[0], {2: 90.0})
    assert "float model is faster: 80.0" in verdict(
        speed.fastest(subject, found, "clocked", Runtime(InProcess()), rounds=3)
    )
    subject, found = study(points, points[0], {2: 70.0})
    assert "faster" not in verdict(
        speed.fastest(subject, found, "clocked", Runtime(InProcess()), rounds=3)
    )


def test_the_verdict_on_a_given_number_speaks_of_no_search() -> None:
    points = [point(2, 0.9, 0.03)]
    _, found = study(points, points[0], {})
    missed = speed.replace(found, met=False)
    assert "the nearest" in verdict(missed)
    assert "NOT met, 2 asked for: 2 layers" in verdict(speed.replace(missed, top=2))


def test_a_given_number_of_layers_stays_chosen(clocked: Clocked) -> None:
    points = [point(2, 0.9, 0.01), point(4, 0.8, 0.005)]
    subject, found = study(points, points[0], {2: 50.0, 4: 40.0})
    assert len(speed.fastest(subject, found, "clocked", Runtime(InProcess())).chosen.kept) == 4
    asked = speed.replace(found, top=2)
    assert len(speed.fastest(subject, asked, "clocked", Runtime(InProcess())).chosen.kept) == 2


def test_sets_that_noise_cannot_tell_apart_go_by_their_macs() -> None:
    points = [point(1, 0.99, 0.0), point(2, 0.95, 0.0), point(5, 0.80, 0.0)]
    wall = np.asarray([80.0, 60.0, 41.0, 40.0]) + np.random.default_rng(0).normal(0, 3, (30, 4))
    found = Latencies(wall_ms=wall, device_ms=None, batch_size=1, others=None)
    assert speed._fastest(found, [1, 2, 3], points) == 2
