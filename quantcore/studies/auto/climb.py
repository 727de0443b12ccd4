"""From rung to rung, until one recipe meets both targets; then a look at images nobody has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.data.opening import open_dataset, split_in
from quantcore.engines.audit import inspect
from quantcore.errors import QuantcoreError
from quantcore.evaluation.tasks import task_of
from quantcore.ir.description import describe
from quantcore.pipeline import Evaluation, save_qdq
from quantcore.results.auto import Asked, AutoRecord, Belief, Images, Rival, Tried, Unseen
from quantcore.results.estimate import Estimate
from quantcore.runtime.executor import Executor, kept_in
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import Progress
from quantcore.studies.auto import choice, verdict
from quantcore.studies.auto.attempt import Attempt
from quantcore.studies.auto.judging import Judge, Judged, mean
from quantcore.studies.auto.ladder import Ladder, check_backends
from quantcore.studies.auto.parts import divided
from quantcore.studies.auto.settings import RUNGS, AutoStudy
from quantcore.studies.auto.timing import LAST_TURNS, Runner, needs_of, structure, timed

#: Recipes of each structure that a rung judges by all their graphs, after a look at one of each.
FINALISTS = 2

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
    _check(what)
    with kept_in(what.out, progress, executor) as runtime:
        needs = [registry.needed(registry.BACKENDS, name, what.device) for name in what.backends]
        runtime.executor.check([*needs, needs_of(what.engines)])
        climb = _Climb(what, runtime, say)
        climb.run()
        record = climb.end()
        say(runtime.summary())
    write_whole(what.out / "auto.json", json_text(record))
    return record


def _check(what: AutoStudy) -> None:
    """Refuses what can be refused before any work is done."""
    check_backends(what.backends)
    for how in what.engines:
        registry.load_engine(how.engine).check(how.options)
    dataset = open_dataset(what.data.root, what.data.evaluation)
    task_of(what.model).check(dataset, what.model.class_names)
    dataset.labels_of(dataset.select())


@dataclass(frozen=True)
class _Entry:
    """A recipe on an engine, judged and timed."""

    attempt: Attempt
    judge: Judge
    options: EngineOptions
    judged: Judged
    tried: Tried


class _Climb:
    """A search under way."""

    def __init__(self, what: AutoStudy, runtime: Runtime, say: Say) -> None:
        self._what, self._runtime, self._say = what, runtime, say
        self._began = time.monotonic()
        self._parts = divided(what.data, what.choosing, what.seed)
        self._metric = task_of(what.model).metric
        self._ladder = Ladder(what, self._parts, runtime, say)
        self._judges: list[Judge] = []
        self._rivals: list[tuple[Runner, Rival]] = []
        self._entries: list[_Entry] = []
        self._skipped: dict[str, str] = {}

    def run(self) -> None:
        """Climbs until both targets are met, or the rungs or the budget are at their end."""
        parts, what = self._parts, self._what
        self._say(
            f"{len(parts.calibrating)} images of {what.data.calibration} to calibrate on, "
            f"{len(parts.choosing)} to choose by (seed {what.seed}); {what.data.evaluation} is "
            "looked at once, at the end"
        )
        self._judges = [
            Judge(what.model, parts.dataset, parts.choosing, how, self._runtime)
            for how in what.engines
        ]
        self._meet_rivals()
        for rung in self._runtime.progress.track(RUNGS, "auto: rungs"):
            why = self._why_not(rung)
            if why is not None:
                self._skipped[rung] = why
                continue
            best = self._start() if self._entries else None
            attempts = self._ladder.attempts(rung, best)
            for judge in self._judges:
                self._try(rung, attempts, judge)
            if any(entry.tried.meets for entry in self._entries):
                return

    def _why_not(self, rung: str) -> str | None:
        """Why a rung is not climbed; None where it is."""
        if rung in self._what.without:
            return "left out as asked"
        left = self._left
        if left is not None and left <= 0 and self._entries:
            return f"the budget of {self._what.budget:.0f} s is used up"
        if rung in ("mixed", "rounding", "qat") and not any(e.tried.fast for e in self._entries):
            return "nothing so far is fast enough, and this makes nothing faster"
        return None

    @property
    def _left(self) -> float | None:
        """Seconds of the budget that are left."""
        budget = self._what.budget
        return None if budget is None else budget - (time.monotonic() - self._began)

    def _meet_rivals(self) -> None:
        """The float networks that one would deploy otherwise, each judged and timed."""
        model, runners, judged = self._what.model, [], []
        for judge in self._judges:
            how = judge.how
            for precision, options in self._precisions(how).items():
                runners.append(Runner(how.engine, options, model.proto))
                name = f"float network, {precision}"
                judged.append((precision, judge.mean(model, [model.proto], name, options)))
        times = timed(runners, model, self._runtime)
        for number, (runner, (precision, found)) in enumerate(zip(runners, judged, strict=True)):
            belief = choice.belief_of(found, self._metric)
            rival = Rival(
                engine=runner.engine,
                precision=precision,
                ms=times.result(number).p50_ms,
                lost=found.lost_estimate,
                drop=found.drop_estimate,
                counts=belief.drop <= self._what.max_drop,
            )
            self._rivals.append((runner, rival))
            self._say(verdict.rival(rival, self._metric))

    @staticmethod
    def _precisions(how: Evaluation) -> Mapping[str, EngineOptions]:
        return registry.load_engine(how.engine).float_options(how.options)

    def _rest(self, engine: str) -> tuple[Runner, Rival]:
        """The fastest float network of an engine that counts: what INT8 leaves runs as it does."""
        own = [entry for entry in self._rivals if entry[1].engine == engine]
        return min(own, key=lambda entry: (not entry[1].counts, entry[1].ms))

    def _try(self, rung: str, attempts: Sequence[Attempt], judge: Judge) -> None:
        """Looks at one graph of each attempt, then at all graphs of the best ones."""
        runner, rest = self._rest(judge.how.engine)
        attempts = [replace(attempt, rest=rest.precision) for attempt in attempts]
        looked = self._looked_at(rung, attempts, judge, runner.options)
        looked.sort(key=lambda entry: entry[0])
        shapes: dict[str, list[Attempt]] = {}
        for _, attempt in looked:
            shapes.setdefault(structure(attempt.graph().proto), []).append(attempt)
        if not shapes:
            return
        protos = [like[0].graph().proto for like in shapes.values()]
        against, _ = min(self._rivals, key=lambda entry: (not entry[1].counts, entry[1].ms))
        runners = [Runner(judge.how.engine, runner.options, proto) for proto in protos]
        times = timed([against, *runners], self._what.model, self._runtime)
        for number, like in enumerate(shapes.values(), 1):
            for attempt in like[:FINALISTS]:
                graphs = list(attempt.graphs(self._what.graphs))
                name = f"{attempt.name}: similar graphs"
                judged = judge.mean(attempt.model, graphs, name, runner.options)
                ms, speedup = times.result(number).p50_ms, times.ratio(0, number)
                tried = self._tried(rung, attempt, judge, judged, ms, speedup)
                self._entries.append(_Entry(attempt, judge, runner.options, judged, tried))
                self._say(verdict.tried(tried, self._metric))

    def _looked_at(
        self, rung: str, attempts: Sequence[Attempt], judge: Judge, options: EngineOptions
    ) -> list[tuple[float, Attempt]]:
        """What one graph of each attempt loses of what is found; those of a model together."""
        by_model: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            by_model.setdefault(attempt.model.fingerprint, []).append(attempt)
        found = []
        for same in by_model.values():
            protos = [attempt.graph().proto for attempt in same]
            try:
                judged = judge.each(same[0].model, protos, f"{rung}: recipes", options)
            except QuantcoreError as error:
                self._say(f"{rung} on {judge.how.engine}: left out: {error}")
                continue
            found += [(float(j.lost[0]), a) for j, a in zip(judged, same, strict=True)]
        return found

    def _tried(
        self,
        rung: str,
        attempt: Attempt,
        judge: Judge,
        judged: Judged,
        ms: float,
        speedup: Estimate,
    ) -> Tried:
        belief = choice.belief_of(judged, self._metric)
        return Tried(
            rung=rung,
            name=attempt.name,
            engine=judge.how.engine,
            graphs=judged.graphs,
            lost=judged.lost_estimate,
            drop=judged.drop_estimate,
            belief=belief,
            ms=ms,
            speedup=speedup,
            accurate=belief.drop <= self._what.max_drop,
            fast=speedup.value >= self._what.min_speedup,
        )

    def _start(self) -> Attempt:
        """What later rungs start from."""
        return self._entries[self._best([e.tried.belief for e in self._entries])].attempt

    def _best(self, beliefs: Sequence[Belief]) -> int:
        """Of all recipes the one to take, if their drops were as believed.

        The first that meets both targets wins, for the rungs come cheapest first; of one rung the
        fastest does, and where speeds cannot be told apart, what loses least. Where none meets
        both: of the fast ones what loses least, else of the accurate ones the fastest.
        """
        tried = [entry.tried for entry in self._entries]
        numbers = range(len(tried))
        accurate = [n for n in numbers if beliefs[n].drop <= self._what.max_drop]
        fast = [n for n in numbers if tried[n].fast]
        if meeting := [n for n in accurate if n in fast]:
            rung = min(RUNGS.index(tried[n].rung) for n in meeting)
            pool = [n for n in meeting if RUNGS.index(tried[n].rung) == rung]
        else:
            pool = [min(fast, key=lambda n: beliefs[n].drop)] if fast else accurate or [*numbers]
        top = max((tried[n].speedup for n in pool), key=lambda speedup: speedup.value)
        equal = [n for n in pool if tried[n].speedup.high >= top.low]
        return min(equal, key=lambda n: beliefs[n].drop)

    def end(self) -> AutoRecord:
        """Judges the chosen one on the evaluation split, writes it, and says what it is worth."""
        if not self._entries:
            raise QuantcoreError("auto: nothing could be calibrated and run; see the lines above")
        what, metric = self._what, self._metric
        number = self._best([e.tried.belief for e in self._entries])
        best = self._entries[number]
        optimism = choice.optimism([e.judged for e in self._entries], self._best, metric)
        unseen = self._unseen(best)
        artifacts = self._write(best)
        record = AutoRecord(
            model=what.model.name,
            weights=what.weights.name if what.weights else what.model.name,
            data=str(what.data.root),
            metric=metric,
            asked=Asked(max_drop=what.max_drop, min_speedup=what.min_speedup, budget=what.budget),
            images=self._images(),
            rivals=tuple(sorted((r for _, r in self._rivals), key=lambda r: r.ms)),
            tried=tuple(entry.tried for entry in self._entries),
            chosen=number,
            unseen=unseen,
            optimism=optimism,
            met=False,
            verdict=(),
            warnings=(),
            skipped=self._skipped,
            seconds=time.monotonic() - self._began,
            host=self._runtime.host(needs_of(what.engines)),
            artifacts=artifacts,
        )
        return verdict.told(record)

    def _images(self) -> Images:
        what, parts = self._what, self._parts
        return Images(
            split=split_in(what.data.root, what.data.calibration),
            seed=what.seed,
            calibrating=tuple(image.id for image in parts.calibrating),
            choosing=tuple(image.id for image in parts.choosing),
            labelled=self._judges[0].labelled,
            evaluation=split_in(what.data.root, what.data.evaluation),
        )

    def _unseen(self, best: _Entry) -> Unseen:
        """The chosen recipe on the evaluation split, its speed measured anew."""
        what, how = self._what, best.judge.how
        dataset = open_dataset(what.data.root, what.data.evaluation)
        images = dataset.select(how.images)
        judge = Judge(what.model, dataset, images, how, self._runtime)
        graphs = list(best.attempt.graphs(what.graphs))
        name = f"{what.data.evaluation}: similar graphs"
        each = judge.each(best.attempt.model, graphs, name, best.options)
        judged = mean(each)
        runners = [runner for runner, _ in self._rivals]
        chosen = Runner(how.engine, best.options, graphs[0])
        times = timed([*runners, chosen], what.model, self._runtime, LAST_TURNS)
        names = [rival.name for _, rival in self._rivals]
        audit = inspect(registry.load_engine(how.engine), graphs[0], best.options)
        return Unseen(
            split=self._images().evaluation,
            images=len(images),
            graphs=judged.graphs,
            float_figure=judge.float_figure,
            lost=judged.lost_estimate,
            drop=judged.drop_estimate,
            graph_drop=float(each[0].drop[0]),
            speedups={name: times.ratio(n, len(names)) for n, name in enumerate(names)},
            ms={
                **{name: times.result(n).p50_ms for n, name in enumerate(names)},
                "INT8": times.result(len(names)).p50_ms,
            },
            int8=(audit.int8, len(audit.layers)),
            not_int8={layer.node: layer.why for layer in audit.layers if layer.why},
        )

    def _write(self, best: _Entry) -> dict[str, str]:
        """Writes the network to deploy, and what it was made from."""
        out, attempt = self._what.out, best.attempt
        save_qdq(attempt.graph(), out / "qdq.onnx")
        write_whole(out / "float.onnx", describe(attempt.model).SerializeToString())
        attempt.table.save(out / "table.json")
        write_whole(out / "policy.yaml", verdict.policy_yaml(attempt.policy))
        return {
            "onnx": "qdq.onnx",
            "float": "float.onnx",
            "table": "table.json",
            "policy": "policy.yaml",
            "report": "auto.json",
        }
