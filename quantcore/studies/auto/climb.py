"""From rung to rung, until one recipe meets both targets; then a look at images nobody has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.data.opening import split_in
from quantcore.errors import BackendError, QuantcoreError
from quantcore.evaluation.tasks import task_of
from quantcore.report.pages.auto import page
from quantcore.results.auto import AutoRecord, Belief
from quantcore.runtime.executor import Executor, kept_in
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.notes import gathered, note
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import Progress
from quantcore.studies.auto import choice, rivals, verdict
from quantcore.studies.auto.attempt import Attempt
from quantcore.studies.auto.counters import Gain, gains
from quantcore.studies.auto.diagnosis import gaps, too_few
from quantcore.studies.auto.ending import Entry, recorded
from quantcore.studies.auto.judging import Judge, Judged
from quantcore.studies.auto.ladder import Ladder, check_backends
from quantcore.studies.auto.parts import divided, to_judge
from quantcore.studies.auto.settings import RUNGS, AutoStudy
from quantcore.studies.auto.timing import Runner, needs_of, structure, timed

#: Recipes of each structure that a rung judges by all their graphs, after a look at one of each;
#: those that lose so many times as much as the first are not among them.
FINALISTS, NEAR = 2, 1.25

Say = Callable[[str], None]


def auto(
    what: AutoStudy,
    progress: Progress | None = None,
    say: Say = lambda line: None,
    executor: Executor | None = None,
) -> AutoRecord:
    """Finds the cheapest recipe that meets a stated accuracy and speed.

    What is finished is kept at once: a search that was interrupted goes on where it was.

    Args:
        what: What is asked for.
        progress: Where long work reports.
        say: Is given a line after each step.
        executor: Where the work is done; None for processes of this machine.

    Returns:
        What was tried, chosen and found; the files lie in `what.out`.

    Raises:
        QuantcoreError: Something that can be refused before any work; or the float network fails
            on an engine, or nothing at all can be calibrated.
    """
    ensure_folder(what.out)
    with gathered() as notes:
        _check(what)
        record = replace(_climbed(what, progress, say, executor), notes=tuple(notes))
    write_whole(what.out / "auto.json", json_text(record))
    write_whole(what.out / "auto.html", page(record.to_dict(), what.out).html())
    return record


def _climbed(
    what: AutoStudy, progress: Progress | None, say: Say, executor: Executor | None
) -> AutoRecord:
    with kept_in(what.out, progress, executor) as runtime:
        needs = [registry.needed(registry.BACKENDS, name, what.device) for name in what.backends]
        runtime.executor.check([*needs, needs_of(what.engines)])
        record = _Climb(what, runtime, say).run()
        say(runtime.summary())
    return record


def _check(what: AutoStudy) -> None:
    """Refuses what can be refused before any work is done."""
    check_backends(what.backends)
    for how in what.engines:
        registry.load_engine(how.engine).check(how.options)
    rivals.check_rivals(what)
    dataset, own = to_judge(what.data, what.engines[0].images)
    task_of(what.model).check(dataset, what.model.class_names)
    dataset.labels_of(own)
    shared = len(dataset.select(what.engines[0].images)) - len(own)
    if shared:
        note(
            f"{shared} of the {shared + len(own)} images to judge by at the end are in the "
            f"calibration split too; they are left out there"
        )


class _Climb:
    """A search under way."""

    def __init__(self, what: AutoStudy, runtime: Runtime, say: Say) -> None:
        self._what, self._runtime, self._say = what, runtime, say
        self._began = time.monotonic()
        self._parts = divided(what.data, what.choosing, what.seed, what.images)
        self._metric = task_of(what.model).metric
        self._ladder = Ladder(what, self._parts, runtime, say)
        self._entries: list[Entry] = []
        self._skipped: dict[str, str] = {}
        self._warnings: list[str] = []

    def run(self) -> AutoRecord:
        """Climbs until both targets are met, or the rungs or the budget are at their end."""
        parts, what = self._parts, self._what
        root = what.data.root
        calibration, evaluation = (
            split_in(root, split) for split in (what.data.calibration, what.data.evaluation)
        )
        self._say(
            f"{len(parts.calibrating)} images of {calibration} to calibrate on, "
            f"{len(parts.choosing)} to choose by (seed {what.seed}); {evaluation} is looked at "
            "once, at the end"
        )
        given = (parts.dataset, parts.choosing)
        judges = [Judge(what.model, *given, how, self._runtime) for how in what.engines]
        self._rivals = rivals.met(what, judges, self._metric, self._runtime)
        for _, rival in self._rivals.all:
            self._say(verdict.rival(rival, self._metric))
        for rung in self._runtime.progress.track(RUNGS, "auto: rungs"):
            best = self._entries[self._best(self._beliefs)] if self._entries else None
            why = self._why_not(rung, best)
            if why is not None:
                self._skipped[rung] = why
                continue
            start, fast = (best.attempt, best.tried.fast) if best else (None, False)
            attempts = self._ladder.attempts(rung, self._gained, start, fast)
            for judge in judges:
                self._try(rung, attempts, judge)
            if rung == RUNGS[0]:
                self._warn()
            if any(entry.tried.meets for entry in self._entries):
                break
        if not self._entries:
            raise BackendError("auto: nothing could be calibrated and run; see the lines above")
        return self._end()

    def _why_not(self, rung: str, best: Entry | None) -> str | None:
        """Why a rung is not climbed; None where it is."""
        budget = self._what.budget
        if rung in self._what.without:
            return "left out as asked"
        if budget is not None and self._entries and time.monotonic() - self._began > budget:
            return f"the budget of {budget:.0f} s was used up"
        if best and rung == "qat" and not best.tried.fast:
            return "the best so far is not fast enough, and this makes nothing faster"
        if best and rung == "rounding" and not (best.tried.fast or best.tried.faster):
            return "the best so far is no faster than the float network, and this changes no speed"
        return None

    def _gained(self, attempt: Attempt) -> Mapping[str, Gain]:
        """What INT8 gains in each layer, on the engine of the best recipe so far."""
        best = self._entries[self._best(self._beliefs)]
        float_network, recipe = (
            Runner(best.how.engine, best.options, proto)
            for proto in (self._what.model.proto, attempt.graph().proto)
        )
        return gains(float_network, recipe, self._what.model, self._runtime)

    def _warn(self) -> None:
        """What the images cannot tell, or lack, once the first recipes show it."""
        judged = [entry.judged for entry in self._entries]
        found = [*too_few(judged, len(self._parts.choosing), self._what.max_drop, self._metric)]
        found += gaps(self._parts, self._ladder.reach())
        for warning in found:
            self._say(f"note: {warning}")
        self._warnings += found

    def _try(self, rung: str, attempts: Sequence[Attempt], judge: Judge) -> None:
        """Looks at one graph of each attempt, then at all graphs of the best ones."""
        rest, options = self._rivals.rest(judge.how)
        attempts = [replace(attempt, rest=rest) for attempt in attempts]
        looked = self._looked_at(rung, attempts, judge, options)
        shapes: dict[str, list[tuple[Attempt, Judged]]] = {}
        for attempt, one in looked:
            shapes.setdefault(structure(attempt.graph().proto), []).append((attempt, one))
        if not shapes:
            return
        protos = [alike[0][0].graph().proto for alike in shapes.values()]
        runners = [Runner(judge.how.engine, options, proto) for proto in protos]
        times = timed([self._rivals.fastest, *runners], self._what.model, self._runtime)
        for number, alike in enumerate(shapes.values(), 1):
            least = alike[0][1].lost[0]
            for attempt, one in alike[:FINALISTS]:
                if one.lost[0] > NEAR * least:
                    continue
                judged = one
                if not self._hopeless(one):
                    graphs = list(attempt.graphs(self._what.graphs))
                    name = f"{attempt.name}: similar graphs"
                    judged = judge.mean(attempt.model, graphs, name, options)
                speed = (times.result(number).p50_ms, times.ratio(0, number))
                entry = Entry.of(attempt, judge.how, options, judged, speed, self._what)
                self._entries.append(entry)
                self._say(verdict.tried(entry.tried, self._metric))

    def _hopeless(self, one: Judged) -> bool:
        """Whether a single graph shows that a recipe loses far more than is asked."""
        belief = choice.belief_of(one, self._metric)
        return belief.drop - 3 * belief.deviation > self._what.max_drop

    def _looked_at(
        self, rung: str, attempts: Sequence[Attempt], judge: Judge, options: EngineOptions
    ) -> list[tuple[Attempt, Judged]]:
        """What one graph of each attempt loses; those of a model are run together."""
        by_model: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            by_model.setdefault(attempt.model.fingerprint, []).append(attempt)
        found: list[tuple[Attempt, Judged]] = []
        for same in by_model.values():
            protos = [attempt.graph().proto for attempt in same]
            try:
                judged = judge.each(same[0].model, protos, f"{rung}: recipes", options)
            except QuantcoreError as error:
                self._say(f"{rung} on {judge.how.engine}: left out: {error}")
                continue
            found += zip(same, judged, strict=True)
        return sorted(found, key=lambda entry: float(entry[1].lost[0]))

    @property
    def _beliefs(self) -> list[Belief]:
        return [entry.tried.belief for entry in self._entries]

    def _best(self, beliefs: Sequence[Belief]) -> int:
        tried = [entry.tried for entry in self._entries]
        asked = (self._what.max_drop, self._what.min_speedup, self._what.confidence)
        return choice.best(tried, beliefs, *asked)

    def _delivered(self, chosen: Attempt) -> Attempt:
        """The chosen recipe with all images: those that chose have done their work."""
        if not self._what.refit:
            return chosen
        return Ladder(self._what, self._parts.whole, self._runtime, self._say).anew(chosen)

    def _end(self) -> AutoRecord:
        """Judges the chosen one where nothing was chosen, writes it, and says what it is worth."""
        number = self._best(self._beliefs)
        judged = [entry.judged for entry in self._entries]
        delivered = self._delivered(self._entries[number].attempt)
        about = (self._what, self._parts, self._rivals, self._entries, number)
        record = recorded(*about, delivered, self._runtime)
        return verdict.told(
            replace(
                record,
                optimism=choice.optimism(judged, self._best, self._metric),
                warnings=tuple(self._warnings),
                skipped=self._skipped,
                seconds=time.monotonic() - self._began,
            )
        )
