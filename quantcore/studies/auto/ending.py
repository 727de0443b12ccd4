"""The end of the climb: the chosen recipe on images that nothing was chosen on, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import yaml

from quantcore.contracts import registry
from quantcore.contracts.engine import EngineOptions
from quantcore.data.opening import open_dataset, split_in
from quantcore.engines.audit import inspect
from quantcore.evaluation.tasks import task_of
from quantcore.ir.description import describe
from quantcore.pipeline import Evaluation, save_qdq
from quantcore.results.audit import Int8Audit
from quantcore.results.auto import Asked, AutoRecord, Images, Tried, Unseen
from quantcore.results.estimate import Estimate
from quantcore.results.evidence import Evidence
from quantcore.runtime.files import write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.studies.auto import choice
from quantcore.studies.auto.attempt import Attempt
from quantcore.studies.auto.judging import Judge, Judged, mean
from quantcore.studies.auto.parts import Parts, to_judge
from quantcore.studies.auto.rivals import Rivals
from quantcore.studies.auto.settings import AutoStudy
from quantcore.studies.auto.timing import LAST_TURNS, Runner, needs_of, timed
from quantcore.studies.evidence import Looked, changed_images, deployed, errors, scores
from quantcore.studies.manifest import Invocation, manifest


@dataclass(frozen=True)
class Entry:
    """A recipe on an engine, judged and timed.

    Attributes:
        attempt: The recipe.
        how: The engine.
        options: How the recipe is run there.
        judged: What it loses.
        tried: The same as a result.
    """

    attempt: Attempt
    how: Evaluation
    options: EngineOptions
    judged: Judged
    tried: Tried

    @classmethod
    def of(
        cls,
        attempt: Attempt,
        how: Evaluation,
        options: EngineOptions,
        judged: Judged,
        speed: tuple[float, Estimate],
        what: AutoStudy,
    ) -> Entry:
        """Holds a recipe against what is asked for; `speed` is milliseconds, times as fast."""
        belief = choice.belief_of(judged, task_of(what.model).metric)
        ms, speedup = speed
        tried = Tried(
            rung=attempt.rung,
            name=attempt.name,
            engine=how.engine,
            graphs=judged.graphs,
            lost=judged.lost_estimate,
            drop=judged.drop_estimate,
            belief=belief,
            ms=ms,
            speedup=speedup,
            accurate=belief.at(what.confidence) <= what.max_drop,
            fast=speedup.low >= what.min_speedup,
        )
        return cls(attempt, how, options, judged, tried)


def recorded(
    what: AutoStudy,
    parts: Parts,
    rivals: Rivals,
    entries: Sequence[Entry],
    number: int,
    delivered: Attempt,
    runtime: Runtime,
) -> AutoRecord:
    """What was tried and chosen, and what the chosen one is worth; writes its files.

    Args:
        what: What was asked for.
        parts: Which images did what.
        rivals: What had to be beaten.
        entries: All recipes.
        number: Of the chosen one.
        delivered: The chosen one as it is written and judged, with all images.
        runtime: Where the last look is done and kept.
    """
    best, data = replace(entries[number], attempt=delivered), what.data
    host = runtime.host(needs_of(what.engines))
    last = _LastLook.of(what, best, runtime)
    return AutoRecord(
        model=what.model.name,
        weights=what.weights.name if what.weights else what.model.name,
        data=str(data.root),
        metric=task_of(what.model).metric,
        asked=Asked(
            max_drop=what.max_drop,
            min_speedup=what.min_speedup,
            confidence=what.confidence,
            budget=what.budget,
        ),
        images=Images(
            split=split_in(data.root, data.calibration),
            seed=what.seed,
            calibrating=tuple(image.id for image in parts.calibrating),
            choosing=tuple(image.id for image in parts.choosing),
            delivered=delivered.table.provenance.image_ids,
            labelled=parts.labelled,
            evaluation=split_in(data.root, data.evaluation),
        ),
        rivals=tuple(sorted((rival for _, rival in rivals.all), key=lambda rival: rival.ms)),
        tried=tuple(entry.tried for entry in entries),
        chosen=number,
        unseen=last.unseen(rivals),
        host=host,
        artifacts=_written(what, delivered),
        evidence=last.evidence(),
        manifest=last.manifest(host),
    )


@dataclass(frozen=True)
class _LastLook:
    """The chosen recipe on the evaluation split."""

    what: AutoStudy
    best: Entry
    runtime: Runtime
    judge: Judge
    graphs: Sequence[onnx.ModelProto]
    audit: Int8Audit

    @classmethod
    def of(cls, what: AutoStudy, best: Entry, runtime: Runtime) -> _LastLook:
        """Opens the split."""
        how = best.how
        judge = Judge(what.model, *to_judge(what.data, how.images), how, runtime)
        graphs = list(best.attempt.graphs(what.graphs))
        audit = inspect(registry.load_engine(how.engine), graphs[0], best.options)
        return cls(what, best, runtime, judge, graphs, audit)

    def unseen(self, rivals: Rivals) -> Unseen:
        """What it loses, and its speed measured anew."""
        what, best, judge, graphs = self.what, self.best, self.judge, self.graphs
        split = what.data.evaluation
        each = judge.each(best.attempt.model, graphs, f"{split}: similar graphs", best.options)
        judged = mean(each)
        chosen = Runner(best.how.engine, best.options, graphs[0])
        times = timed([*rivals.runners, chosen], what.model, self.runtime, LAST_TURNS)
        names = rivals.names
        return Unseen(
            split=split_in(what.data.root, split),
            images=len(judge.images),
            graphs=judged.graphs,
            float_figure=judge.float_figure,
            lost=judged.lost_estimate,
            drop=judged.drop_estimate,
            graph_drop=float(each[0].drop[0]),
            speedups={name: times.ratio(n, len(names)) for n, name in enumerate(names)},
            ms={name: times.result(n).p50_ms for n, name in enumerate([*names, "INT8"])},
            others=times.others,
            int8=(self.audit.int8, len(self.audit.layers)),
            not_int8={layer.node: layer.why for layer in self.audit.layers if layer.why},
        )

    def evidence(self) -> Evidence:
        """Scores as deployed, the images that it changes most, the errors along the network."""
        what, attempt, judge = self.what, self.best.attempt, self.judge
        graph, name = self.graphs[0], f"{attempt.name} on {self.best.how.engine}"
        found = judge.found(attempt.model, self.graphs, name, self.best.options)[0][1]
        whole = Looked(name="float", quantized=False, found=judge.float_predictions)
        chosen = Looked(name=name, quantized=True, found=found)
        layers = (attempt.model, graph, attempt.policy, name, self.audit)
        return Evidence(
            scores=scores(deployed([whole, chosen], what.data)) if judge.labelled else None,
            photos=changed_images(what.model, whole, chosen, what.data, what.out)
            if judge.labelled
            else None,
            layers=errors(*layers, what.data, self.runtime),
        )

    def manifest(self, host: Mapping[str, object]) -> dict[str, Any]:
        """When, with what and on what."""
        what = self.what
        dataset = open_dataset(what.data.root, what.data.evaluation)
        versions = dict(self.best.attempt.table.provenance.versions)
        for how in what.engines:
            versions |= registry.load_engine(how.engine).versions()
        invocation = Invocation(command=what.command, weights=what.weights, threads=what.threads)
        progress = self.runtime.progress
        return manifest(invocation, dataset, self.judge.images, host, versions, progress)


def _written(what: AutoStudy, attempt: Attempt) -> dict[str, str]:
    """Writes the network to deploy, and what it was made from."""
    out = what.out
    save_qdq(attempt.graph(), out / "qdq.onnx")
    write_whole(out / "float.onnx", describe(attempt.model).SerializeToString())
    attempt.table.save(out / "table.json")
    policy = yaml.safe_dump(attempt.policy.to_dict(), sort_keys=False)
    write_whole(out / "policy.yaml", policy)
    return {
        "onnx": "qdq.onnx",
        "float": "float.onnx",
        "table": "table.json",
        "policy": "policy.yaml",
        "report": "auto.html",
        "json": "auto.json",
    }
