"""What a recipe is held against: the float networks that one would deploy otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.errors import UsageError
from quantcore.pipeline import Evaluation
from quantcore.results.auto import Rival
from quantcore.results.metric import Metric
from quantcore.runtime.jobs import Runtime
from quantcore.studies.auto import choice
from quantcore.studies.auto.judging import Judge
from quantcore.studies.auto.settings import AutoStudy
from quantcore.studies.auto.timing import Runner, timed


@dataclass(frozen=True)
class Rivals:
    """The float network in every precision of every engine, judged and timed.

    Attributes:
        all: How each is run, and what it is worth.
    """

    all: tuple[tuple[Runner, Rival], ...]

    @property
    def runners(self) -> list[Runner]:
        """How each is run."""
        return [runner for runner, _ in self.all]

    @property
    def names(self) -> list[str]:
        """What each is called."""
        return [rival.name for _, rival in self.all]

    @property
    def fastest(self) -> Runner:
        """The one that has to be beaten: of those that count the fastest."""
        return min(self.all, key=_order)[0]

    def rest(self, how: Evaluation) -> tuple[str, EngineOptions]:
        """What a recipe leaves in float is computed in, and the engine's options for that."""
        own = [entry for entry in self.all if entry[0].engine == how.engine]
        if not own:
            return next(iter(precisions(how).items()))
        runner, rival = min(own, key=_order)
        return rival.precision, runner.options


def _order(entry: tuple[Runner, Rival]) -> tuple[bool, float]:
    return not entry[1].counts, entry[1].ms


def precisions(how: Evaluation) -> Mapping[str, EngineOptions]:
    """The precisions that an engine computes in, FP32 first, and its options for each."""
    return registry.load_engine(how.engine).float_options(how.options)


def check_rivals(what: AutoStudy) -> None:
    """Raises UsageError where no engine computes in a precision that is asked for."""
    known = dict.fromkeys(name for how in what.engines for name in precisions(how))
    missing = sorted((what.rivals or frozenset()) - known.keys())
    if missing:
        raise UsageError(
            f"--rival {missing[0]}: none of the engines computes in that here; they do in "
            f"{', '.join(known)}"
        )


def met(what: AutoStudy, judges: Sequence[Judge], metric: Metric, runtime: Runtime) -> Rivals:
    """Judges and times the float networks that are to be beaten.

    Raises:
        EngineError: An engine refuses the float graph.
    """
    model, runners, names, judged = what.model, [], [], []
    for judge in judges:
        for name, options in precisions(judge.how).items():
            if what.rivals is None or name in what.rivals:
                runners.append(Runner(judge.how.engine, options, model.proto))
                names.append(name)
                title = f"float network, {name}"
                judged.append(judge.mean(model, [model.proto], title, options))
    times = timed(runners, model, runtime)
    rivals = [
        Rival(
            engine=runner.engine,
            precision=name,
            ms=times.result(number).p50_ms,
            lost=found.lost_estimate,
            drop=found.drop_estimate,
            counts=choice.belief_of(found, metric).drop <= what.max_drop,
        )
        for number, (runner, name, found) in enumerate(zip(runners, names, judged, strict=True))
    ]
    return Rivals(tuple(zip(runners, rivals, strict=True)))
