"""The fastest of the sets that meet a target: what is timed, and what counts as equal."""

from types import SimpleNamespace

import numpy as np
import pytest

from quantcore.contracts.engine import EngineOptions
from quantcore.policy.policy import CalibrationPolicy
from quantcore.report.studies import verdict
from quantcore.results.estimate import Estimate, Loss
from quantcore.results.metric import COCO
from quantcore.results.mixed import Mixed, Point, Timing
from quantcore.runtime.executor import InProcess
from quantcore.runtime.jobs import Runtime
from quantcore.studies import speed

NOTHING = Estimate(0.0, 0.0, 0.0)


def point(kept: int, share: float, drop: float, latency: Timing | None = None) -> Point:
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


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    plugin = Clocked(clock)
    monkeypatch.setattr(speed, "load_engine", lambda name: plugin)
    monkeypatch.setattr(speed, "noise", lambda model: None)
    monkeypatch.setattr(speed, "graph_digest", repr)
    monkeypatch.setattr(speed, "keeping", lambda policy, kept: kept)
    return plugin


def test_graphs_are_timed_in_turns(clocked: Clocked) -> None:
    found = speed.time_graphs(clocked, [30.0, 10.0], np.zeros(1), rounds=4)
    assert [t.p50_ms for t in found] == pytest.approx([30, 10])
    assert clocked.order[2 * speed.WARMUP :] == [30.0, 10.0] * 4


def test_the_interval_holds_the_median_and_narrows() -> None:
    random = np.random.default_rng(0)
    few, many = (speed._timing(random.normal(50, 5, n)) for n in (20, 2000))
    for found in (few, many):
        assert found.low_ms <= found.p50_ms <= found.high_ms
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
    slow = point(1, 0.99, 0.0, Timing(60.0, 58.0, 62.0))
    near = point(2, 0.95, 0.0, Timing(41.0, 39.5, 42.0))
    first = point(5, 0.80, 0.0, Timing(40.0, 39.0, 40.5))
    assert speed._fastest([slow, near, first]) is near
