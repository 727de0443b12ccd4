"""The float model and what every backend makes of it, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import onnx

import quantcore
from quantcore.analysis.agreement import noise
from quantcore.analysis.difference import thresholds
from quantcore.contracts import registry
from quantcore.data.opening import open_dataset
from quantcore.errors import QuantcoreError
from quantcore.ir.description import describe
from quantcore.pipeline import Evaluation, evaluate, neighbouring_figures, save_qdq
from quantcore.qdq.insertion import count_pairs
from quantcore.report import studies, terminal
from quantcore.report.pages import comparison as pages
from quantcore.report.terminal import estimate, figure
from quantcore.results import verdict
from quantcore.results.comparison import Evaluated, Failure, RunRecord, Variant
from quantcore.results.estimate import Estimate, Neighbours
from quantcore.results.evidence import Deployed, Evidence
from quantcore.runtime.executor import Executor, kept_in
from quantcore.runtime.files import ensure_folder, write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.notes import gathered
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import Progress
from quantcore.studies.compared import Comparison, check, needs_of, run_by, trains
from quantcore.studies.evidence import (
    Looked,
    changed_images,
    deployed,
    errors,
    look,
    scores,
)
from quantcore.studies.keep import quantized_layers
from quantcore.studies.macs import int8_share, macs_of
from quantcore.studies.manifest import Invocation, manifest
from quantcore.studies.rewriting import rewritten
from quantcore.studies.timing import timed
from quantcore.studies.variants import Quantized, Variants
from quantcore.table.table import CalibrationTable


def compare(
    what: Comparison,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    executor: Executor | None = None,
) -> RunRecord:
    """The float model and what every backend makes of it, on the same engines and evaluator.

    Each calibration and evaluation runs in a process of its own. What is finished is kept at once:
    a comparison that was interrupted goes on, and a backend or engine that fails costs nothing but
    itself; it is named in the record.

    Args:
        what: What is compared.
        progress: Where long work reports.
        say: Is given a line after each step.
        executor: Where the work is done; None for processes of this machine.

    Raises:
        QuantcoreError: Something that can be refused before any work; or the float model fails on
            the first engine, without which there is nothing to compare with.
    """
    ensure_folder(what.out)
    with gathered() as notes:
        check(what)
        record = replace(_compared(what, progress, say, executor), notes=tuple(notes))
    write_whole(what.out / "report.json", json_text(record))
    write_whole(what.out / "report.html", pages.page(record.to_dict(), what.out).html())
    return record


def _compared(
    what: Comparison,
    progress: Progress | None,
    say: Callable[[str], None],
    executor: Executor | None,
) -> RunRecord:
    with kept_in(what.out, progress, executor) as runtime:
        runtime.executor.check(needs_of(what))
        run = _Comparing(what, runtime, say)
        for name in what.rewrites:
            run.rewrite(name)
        run.float_model()
        runtime.together([partial(run.backend, name) for name in what.backends])
        run.arrange()
        run.time()
        run.look_closer()
        record = run.record()
        say(runtime.summary())
    return record


class _Comparing:
    """A comparison under way: what is finished so far."""

    def __init__(self, what: Comparison, runtime: Runtime, say: Callable[[str], None]) -> None:
        self._what = what
        self._model = what.model  # that the backends are given
        self._runtime, self._say = runtime, say
        self._rewrites: list[str] = []
        self._floats: list[Variant] = []
        self._variants: list[Variant] = []
        self._failures: list[Failure] = []
        self._tables: dict[str, CalibrationTable] = {}
        self._graphs: dict[str, onnx.ModelProto] = {}  # by file name
        self._quantized: dict[str, Quantized] = {}  # likewise
        self._evidence = Evidence()

    def rewrite(self, name: str) -> None:
        """Rewrites what the backends are given; writes that model."""
        what = self._what
        found = rewritten(self._model, name, what.data, what.policy, self._runtime)
        self._model = found.model
        path = what.out / f"{registry.load_rewrite(name).makes}.onnx"
        write_whole(path, describe(found.model).SerializeToString())
        self._rewrites.append(found.line)
        self._say(found.line)

    def float_model(self) -> None:
        """Writes the float graph and evaluates it on every engine."""
        path = self._what.out / "float.onnx"
        write_whole(path, describe(self._what.model).SerializeToString())
        self._graphs[path.name] = self._what.model.proto
        for how in self._what.engines:
            try:
                found = self._evaluate("float model", self._what.model.proto, how)
            except QuantcoreError as error:
                if not self._floats:
                    raise
                self._failed("float", how.engine, error)
                continue
            versions = {**found.versions, "quantcore": quantcore.__version__}
            size, files = path.stat().st_size, {"onnx": path.name}
            variant = Variant(
                backend=None,
                evaluated=found,
                calibration_seconds=0.0,
                peak_rss_mb=found.peak_rss_mb,
                onnx_bytes=size,
                artifacts=files,
                versions=versions,
            )
            self._floats.append(variant)
            self._say(f"float on {how.engine}: {found.metric.title} {figure(found.accuracy.main)}")

    def arrange(self) -> None:
        """Puts what was found in the order of the backends, whichever came first."""
        order = self._what.backends.index
        self._variants.sort(key=lambda variant: order(str(variant.backend)))
        self._tables = {name: self._tables[name] for name in sorted(self._tables, key=order)}

    def backend(self, name: str) -> None:
        """Everything that is made with one backend."""
        what, variants = self._what, Variants(self._what, self._model, self._runtime)
        plain = self._made(name, lambda: variants.plain(name))
        if plain is None:
            return
        found = plain.calibrated
        self._tables[name] = found.table
        self._say(f"{name}: calibrated in {found.seconds:.1f} s")
        if found.audit:
            self._say(f"{name}: {terminal.audit(found.audit, name)}")
        self._on_engines(plain)
        for correction in what.corrections:
            make = partial(variants.corrected, plain, correction)
            self._more(f"{name}, {correction}", make)
        if what.training is not None:
            if trains([name]):
                self._more(f"{name}, trained", partial(variants.trained, name, what.training))
            else:
                self._say(f"{name}: does not train")
        if what.target is not None:
            self._more(f"{name}, mixed", partial(variants.mixed, plain, what.target))

    def _more(self, title: str, make: Callable[[], Quantized]) -> None:
        """One more graph of a backend, on every engine."""
        made = self._made(title, make)
        if made is None:
            return
        note = f"{made.title}: {made.note}"
        self._say(f"{made.backend}: {studies.verdict(made.found)}" if made.found else note)
        self._on_engines(made)

    def _made(self, title: str, make: Callable[[], Quantized]) -> Quantized | None:
        """A graph; None where that failed, which is noted."""
        try:
            return make()
        except QuantcoreError as error:
            self._failed(title, None, error)
            return None

    def _on_engines(self, made: Quantized) -> None:
        """Writes a graph and evaluates it on every engine."""
        save_qdq(made.qdq, self._what.out / made.artifacts["onnx"])
        self._graphs[made.artifacts["onnx"]] = made.qdq.proto
        self._quantized[made.artifacts["onnx"]] = made
        for how in self._what.engines:
            try:
                found = self._evaluate(made.title, made.qdq.proto, how)
            except QuantcoreError as error:
                self._failed(made.title, how.engine, error)
                continue
            variant = self._variant(made, found)
            change = estimate(variant.difference, sign="+")
            main = f"{found.metric.title} {figure(found.accuracy.main)}"
            self._say(f"{variant.name}: {main}, against float {change}")
            self._variants.append(self._with_neighbours(variant, made, how))

    def _with_neighbours(self, variant: Variant, made: Quantized, how: Evaluation) -> Variant:
        """The variant with what graphs that hardly differ from its own lose, where it is asked."""
        what, table = self._what, made.calibrated.table
        own, difference = variant.evaluated.accuracy.main, variant.difference
        if what.graphs == 1 or own is None or difference is None:
            return variant  # nothing is asked, or there are no labels
        model = made.calibrated.model
        given = (model, table, made.policy, what.precision, what.data, how, what.graphs - 1)
        try:
            figures = neighbouring_figures(*given, self._runtime)
        except QuantcoreError as error:
            self._failed(f"{made.label}, similar graphs", how.engine, error)
            return variant
        whole = own - difference.value
        others = (each - whole for each in figures if each is not None)
        found = Neighbours((difference.value, *others))
        self._say(f"{variant.name}: mean of {what.graphs} similar graphs {found.mean:+.3f}")
        return replace(variant, neighbours=found)

    def time(self) -> None:
        """Measures the latencies of all graphs, in turns; each engine by itself."""
        batch = noise(self._what.model)
        for how in self._what.engines:
            here = [v for v in (*self._floats, *self._variants) if v.evaluated.engine == how.engine]
            try:
                found = timed(here, self._graphs, how, batch, self._runtime)
            except QuantcoreError as error:
                self._failed("latency", how.engine, error)
                continue
            by_name = {variant.name: variant for variant in found}
            for variants in (self._floats, self._variants):
                variants[:] = [by_name.get(v.name, v) for v in variants]

    def look_closer(self) -> None:
        """At all variants' scores as deployed, and at the pictures and layers of one."""
        what, deployments = self._what, list[Deployed]()
        try:
            for how in what.engines:
                both = (*self._floats, *self._variants)
                here = [v for v in both if v.evaluated.engine == how.engine]
                looked = look(what.model, here, self._graphs, what.data, how, self._runtime)
                deployments += deployed(looked, what.data)
                self._look_at_one(looked)
            self._evidence = replace(self._evidence, scores=scores(deployments))
        except QuantcoreError as error:
            self._failed("a closer look", None, error)

    def _look_at_one(self, looked: Sequence[Looked]) -> None:
        """At the variant to deploy; where that is float, at the quantized one that loses least."""
        what, name = self._what, verdict.closest(self._floats, self._variants)
        whole = next((one for one in looked if not one.quantized), None)
        other = next((one for one in looked if one.name == name), None)
        if whole is None or other is None:
            return
        variant = next(v for v in self._variants if v.name == other.name)
        made = self._quantized[variant.artifacts["onnx"]]
        made_of = (made.calibrated.model, made.qdq.proto, made.policy)
        given = (*made_of, other.name, variant.evaluated.int8)
        self._evidence = replace(
            self._evidence,
            photos=changed_images(what.model, whole, other, what.data, what.out),
            layers=errors(*given, what.data, self._runtime),
        )

    def _manifest(self, host: Mapping[str, object]) -> dict[str, Any]:
        """When, with what and on what."""
        what = self._what
        dataset = open_dataset(what.data.root, what.data.evaluation)
        images = dataset.select(what.engines[0].images)
        versions = {
            name: version
            for variant in (*self._floats, *self._variants)
            for name, version in variant.versions.items()
        }
        invocation = Invocation(command=what.command, weights=what.weights, threads=what.threads)
        return manifest(invocation, dataset, images, host, versions, self._runtime.progress)

    def record(self) -> RunRecord:
        """Everything that was found."""
        host = self._runtime.host(run_by(self._what.engines[0]))
        return RunRecord(
            model=self._what.model.name,
            weights=self._what.weights.name if self._what.weights else self._what.model.name,
            data=str(self._what.data.root),
            floats=tuple(self._floats),
            variants=tuple(self._variants),
            failures=tuple(self._failures),
            thresholds=tuple(thresholds(self._tables)),
            host=host,
            rewrites=tuple(self._rewrites),
            evidence=self._evidence,
            manifest=self._manifest(host),
        )

    def _evaluate(self, name: str, proto: onnx.ModelProto, how: Evaluation) -> Evaluated:
        title = f"{name} on {how.engine}"
        # Latencies are compared, so they are measured side by side when all graphs are there.
        how = replace(how, runs=0)
        return evaluate(self._what.model, proto, self._what.data, how, self._runtime, title)

    def _variant(self, made: Quantized, found: Evaluated) -> Variant:
        calibration, model = made.calibrated, made.calibrated.model
        return Variant(
            backend=made.backend,
            evaluated=found,
            calibration_seconds=calibration.seconds,
            peak_rss_mb=calibration.peak_rss_mb,
            onnx_bytes=(self._what.out / made.artifacts["onnx"]).stat().st_size,
            artifacts=made.artifacts,
            # The engine's first: the same library may have calibrated in another version.
            versions={**found.versions, **calibration.table.provenance.versions},
            policy=made.policy.to_dict(),
            pairs=count_pairs(made.qdq.proto),
            # The audit is of what was calibrated, with everything quantized.
            audit=None if made.step else calibration.audit,
            parity=calibration.parity,
            difference=self._difference(found),
            macs_in_int8=int8_share(macs_of(model), quantized_layers(model, made.policy)),
            step=made.step,
            note=made.note,
            left=made.left,
        )

    def _difference(self, found: Evaluated) -> Estimate | None:
        """The main figure against the float model on the same engine, where that is known."""
        floats = (f.evaluated for f in self._floats)
        same = next((f.draws for f in floats if f.engine == found.engine), None)
        return found.draws.against(same) if same and found.draws else None

    def _failed(self, name: str, engine: str | None, error: QuantcoreError) -> None:
        self._failures.append(Failure(name, engine, str(error)))
        self._say(f"{name}{f' on {engine}' if engine else ''}: failed: {error}")
