"""What is held against the target: measured and expected drops, with a margin for the noise."""

from types import SimpleNamespace

import numpy as np
import pytest

from quantcore.errors import UsageError
from quantcore.evaluation.tasks import Detection
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.estimate import Estimate, Loss
from quantcore.results.metric import COCO
from quantcore.results.mixed import Mixed, Point
from quantcore.studies.mixed import SearchTarget, WholeModelEvaluator


def loss(drop: float, detections: float, half: float = 0.0) -> Loss:
    return Loss(
        Estimate(drop, drop - half, drop + half),
        Estimate(detections, detections, detections),
        float("nan"),
        float("nan"),
    )


def whole(
    monkeypatch: pytest.MonkeyPatch, losses: list[Loss], confidence: float
) -> WholeModelEvaluator:
    monkeypatch.setattr("quantcore.studies.mixed.macs_of", lambda model: {"a": 3, "b": 1})
    monkeypatch.setattr("quantcore.studies.mixed.keeping", lambda policy, kept: None)
    subject = SimpleNamespace(
        model=None, policy=None, layers=("a", "b"), candidate=lambda what, policy: what
    )
    runs = SimpleNamespace(run=lambda variants, what, shared: [None], task=Detection())
    scorer = SimpleNamespace(loss=lambda outcome: losses.pop(0))
    return WholeModelEvaluator(subject, runs, scorer, lambda line: None, confidence)


def test_a_lucky_set_is_held_to_what_its_detections_let_expect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = whole(monkeypatch, [loss(0.02, 0.10), loss(0.00, 0.10)], 0.5)
    assert found.drop(frozenset("a")) == pytest.approx(0.02)
    assert found.drop(frozenset("b")) == pytest.approx(0.01)
    assert [point.share for point in found.points.values()] == [0.25, 0.75]


def test_sets_with_another_loss_do_not_speak_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = whole(monkeypatch, [loss(0.3, 0.9), loss(0.001, 0.02), loss(0, 0)], 0.5)
    found.drop(frozenset("a"))
    assert found.drop(frozenset("b")) == pytest.approx(0.001, rel=1e-3)
    assert found.drop(frozenset("ab")) == 0


def test_confidence_widens_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    drops = [
        whole(monkeypatch, [loss(0.01, 0.1, half=0.01645)], confidence).drop(frozenset())
        for confidence in (0.5, 0.8, 0.95)
    ]
    assert drops == pytest.approx([0.01, 0.01 + 0.00842, 0.01 + 0.01645], abs=1e-4)


def test_the_frontier_has_no_point_that_another_beats() -> None:
    random = np.random.default_rng(0)
    points = [
        Point(
            kept=(str(n),),
            share=float(random.random()),
            loss=loss(0, 0),
            drop=float(random.random()),
            metric=COCO,
        )
        for n in range(40)
    ]
    chosen = max(points, key=lambda p: (p.drop <= 0.5, p.share))
    nothing = Estimate(0.5, 0.5, 0.5)
    found = Mixed(
        model="m",
        split="s",
        images=1,
        max_drop=0.5,
        confidence=0.8,
        min_int8=0.0,
        float_figure=nothing,
        chosen=chosen,
        met=True,
        points=tuple(points),
        policy=CalibrationPolicy(),
    )
    assert chosen in found.frontier
    for point in found.frontier:
        assert not any(p.share > point.share and p.drop < point.drop for p in points)


@pytest.mark.parametrize(
    "target", [{"max_drop": -1}, {"min_int8": 1.5}, {"confidence": 0.2}, {"confidence": 1.0}]
)
def test_impossible_wishes_are_refused(target: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must"):
        SearchTarget(**target)
