"""The search: it stops, honours its limits, and never keeps more than it must."""

import numpy as np
import pytest

from quantcore.studies.search import Search


def problem(seed: int) -> tuple[dict[str, int], dict[str, float], list[str]]:
    random = np.random.default_rng(seed)
    names = [f"layer.{n}" for n in range(int(random.integers(1, 25)))]
    macs = {name: int(random.integers(0, 100)) for name in names} | {"glue": 0, names[0]: 50}
    harm = {name: float(random.gamma(0.3)) for name in names}
    ranking = sorted(names, key=lambda n: -harm[n] * random.uniform(0.5, 2))
    return macs, harm, ranking


@pytest.mark.parametrize("seed", range(60))
def test_what_is_found_honours_the_limits(seed: int) -> None:
    macs, harm, ranking = problem(seed)
    random = np.random.default_rng(1000 + seed)
    limit, floor = float(random.uniform(0, sum(harm.values()))), float(random.uniform(0, 1))
    calls: list[frozenset[str]] = []

    def drop(kept: frozenset[str]) -> float:
        calls.append(kept)
        return sum(harm[n] for n in ranking if n not in kept) ** 1.5  # interactions

    search = Search(macs, ranking, drop, limit, floor, budget=10_000)
    best = search.run([ranking, ranking[::-1]])
    assert len(calls) == len(set(calls)) == len(search.trials), "nothing is measured twice"
    assert all(t.share >= min(floor, search.share(())) for t in search.trials.values())
    assert best.drop == min(best.drop, drop(best.kept))
    if search.meets(best):
        for name in best.kept:  # nothing is kept that could be given back
            assert drop(best.kept - {name}) > limit
    else:
        enough = [search.allowed(r) for r in (ranking, ranking[::-1])]
        assert all(drop(frozenset(kept)) > limit for kept in enough)
        assert best.drop == min(t.drop for t in search.trials.values())


@pytest.mark.parametrize("seed", range(20))
def test_a_looser_target_never_costs_more(seed: int) -> None:
    macs, harm, ranking = problem(seed)

    def share(limit: float) -> float:
        def drop(kept: frozenset[str]) -> float:
            return sum(harm[n] for n in ranking if n not in kept)

        search = Search(macs, ranking, drop, limit, budget=0)
        found = search.run([ranking])
        assert search.meets(found)
        return found.share

    shares = [share(limit) for limit in np.linspace(0, sum(harm.values()) * 1.01, 12)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_noisy_measure_stops_within_its_budget() -> None:
    macs, _, ranking = problem(3)
    random = np.random.default_rng(0)
    search = Search(macs, ranking, lambda kept: float(random.normal()), 0.0, budget=7)
    search.run([ranking])
    assert len(search.trials) <= 1 + 1 + int(np.ceil(np.log2(len(ranking)))) + 1 + 7


def test_a_set_that_meets_the_target_is_found_though_a_larger_one_does_not() -> None:
    names = [f"l{n}" for n in range(10)]

    def drop(kept: frozenset[str]) -> float:
        return 0.004 if kept == frozenset(names[:3]) else 0.006

    macs = dict.fromkeys(names, 1)
    search = Search(macs, names, drop, 0.005, min_share=0.2)
    small, large = frozenset(names[:3]), frozenset(names[:9])
    found = search.run([names], [small, large])
    assert found.kept == small
    assert search.meets(found)
    assert large not in search.trials  # leaves too little quantized
