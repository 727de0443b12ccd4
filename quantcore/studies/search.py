"""Searches for the cheapest set of layers to keep in float; knows nothing of what it measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from quantcore.studies.macs import int8_share

Kept = frozenset[str]


@dataclass(frozen=True)
class Trial:
    """One set of layers in float, the whole model measured with it.

    Attributes:
        kept: The layers in float.
        share: Share of the MACs in the other layers, 0..1.
        drop: What the model loses, as it is held against the target.
    """

    kept: Kept
    share: float
    drop: float


@dataclass
class Search:
    """Bisects along rankings, then gives back what is not needed.

    The cost of layers does not add up: errors meet, hide or feed one another. So every set that is
    considered is measured as a whole, once. The steps are those of a person who is careful:

    1. Everything quantized; if that meets the target, nothing is kept.
    2. Along each ranking, the shortest beginning that meets the target, by bisection.
    3. From the best of those, layers are put back in groups, halved until they are single layers,
       as long as the target stays met (after Zeller's delta debugging, 2002).

    Attributes:
        macs: Cost of each candidate and of all others that count, MACs.
        quantized: Candidates: all layers that could be kept.
        measure: Gives the drop of the model with some layers kept.
        limit: The target: drops up to it meet it.
        min_share: Least share of the MACs to leave quantized.
        budget: Most measurements of step 3.
    """

    macs: Mapping[str, int]
    quantized: Sequence[str]
    measure: Callable[[Kept], float]
    limit: float
    min_share: float = 0.0
    budget: int = 60
    trials: dict[Kept, Trial] = field(default_factory=dict)

    def run(self, rankings: Sequence[Sequence[str]], others: Iterable[Kept] = ()) -> Trial:
        """The set with the most MACs quantized that meets the target; else the nearest to it.

        Args:
            rankings: Candidates, those to keep first at the front; several orders may be tried.
            others: Sets to try besides. Noise lets a long beginning of a ranking fail where a
                shorter one meets the target, and bisection sees the long one first.
        """
        if self.meets(self.trial(())):
            return self.best
        for kept in others:
            if self.share(kept) >= self.min_share:
                self.trial(kept)
        for ranking in rankings:
            self._bisect(self.allowed(ranking))
        if self.meets(self.best):
            self._give_back(self.best, rankings[0])
        return self.best

    def trial(self, kept: Iterable[str]) -> Trial:
        """Measures a set of layers, once."""
        chosen = frozenset(kept)
        if chosen not in self.trials:
            share = self.share(chosen)
            self.trials[chosen] = Trial(chosen, share, self.measure(chosen))
        return self.trials[chosen]

    def share(self, kept: Iterable[str]) -> float:
        """Share of the MACs that is quantized with some layers kept."""
        chosen = frozenset(kept)
        return int8_share(self.macs, (name for name in self.quantized if name not in chosen))

    def meets(self, trial: Trial) -> bool:
        """Whether a set meets the target."""
        return trial.drop <= self.limit

    @property
    def best(self) -> Trial:
        """Of the sets that meet the target the cheapest, of none the nearest; ties to the other."""
        met = [trial for trial in self.trials.values() if self.meets(trial)]
        if met:
            return min(met, key=lambda t: (-t.share, len(t.kept), t.drop, sorted(t.kept)))
        return min(self.trials.values(), key=lambda t: (t.drop, -t.share, sorted(t.kept)))

    def allowed(self, ranking: Sequence[str]) -> list[str]:
        """The ranking without the layers that would leave too little quantized."""
        kept: list[str] = []
        for name in ranking:
            if self.share([*kept, name]) >= self.min_share:
                kept.append(name)
        return kept

    def _bisect(self, ranking: Sequence[str]) -> None:
        low, high = 0, len(ranking)  # low is too few; high is enough, where anything is
        if not high or not self.meets(self.trial(ranking)):
            return
        while high - low > 1:
            middle = (low + high) // 2
            if self.meets(self.trial(ranking[:middle])):
                high = middle
            else:
                low = middle

    def _give_back(self, start: Trial, ranking: Sequence[str]) -> None:
        """Puts layers back from a set that meets the target, the least needed first."""
        place = {name: n for n, name in enumerate(ranking)}
        kept = sorted(start.kept, key=lambda name: -place.get(name, len(place)))
        size, left = max(1, len(kept) // 2), self.budget
        while kept:
            at = 0
            while at < len(kept) and left:
                fewer = kept[:at] + kept[at + size :]
                left -= frozenset(fewer) not in self.trials
                if self.meets(self.trial(fewer)):
                    kept = fewer
                else:
                    at += size
            if size == 1 or not left:
                return
            size //= 2
