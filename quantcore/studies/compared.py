"""What is compared, and what can be refused of it before any work is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from quantcore.contracts import registry
from quantcore.contracts.capabilities import Support, check_capabilities
from quantcore.data.opening import open_dataset
from quantcore.errors import UsageError
from quantcore.evaluation.tasks import task_of
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data, Evaluation, check_training
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import plan
from quantcore.qdq.precision import check_precision
from quantcore.runtime.jobs import Needs
from quantcore.runtime.notes import note
from quantcore.studies.mixed import SearchTarget
from quantcore.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        model: The float model.
        backends: Backend names.
        data: What to calibrate and evaluate on.
        out: Folder for the report and the artifacts.
        weights: Where the model came from, for the record.
        policy: Applied by every backend.
        engines: How graphs are evaluated: every graph on each.
        device: Where frameworks compute.
        threads: CPU threads of each framework; None for all.
        precision: Of what stays unquantized; see `pipeline.quantize`.
        target: What is asked of a search for the layers to leave in float, whose result is one more
            variant of every backend; None for no search.
        rewrites: What is done, in order, to the model that the backends are given; the float model
            is evaluated as it was given.
        corrections: Rewrites that work on a table; what each makes of a backend's calibration is
            one more variant.
        training: How networks are trained with their quantizers in place, which is one more variant
            of every backend that trains; None for not at all.
        graphs: How many graphs stand for each variant: its own, and others that hardly differ; see
            `quantcore.analysis.neighbours`.
        command: The command line, for the record.
    """

    model: FloatModel
    backends: tuple[str, ...]
    data: Data
    out: Path
    weights: Path | None = None
    policy: CalibrationPolicy = field(default_factory=CalibrationPolicy)
    engines: tuple[Evaluation, ...] = (Evaluation(),)
    device: str = "auto"
    threads: int | None = None
    precision: str = "int8"
    target: SearchTarget | None = None
    rewrites: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()
    training: Recipe | None = None
    graphs: int = 1
    command: str = ""

    def __post_init__(self) -> None:
        """Takes texts for the paths that they are."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "data", Data.of(self.data))


def check(what: Comparison) -> None:
    """Refuses what can be refused before any work is done."""
    sites = plan(what.model, what.policy)
    for backend in what.backends:
        check_capabilities(backend, registry.load_backend(backend).capabilities, sites)
    check_precision(what.precision)
    for name in what.rewrites:
        registry.load_rewrite(name).check_table(what.model, None)
    for name in what.corrections:
        registry.load_rewrite(name).check_kind(correction=True)
    if what.training is not None:
        able = trains(what.backends)
        if not able:
            raise UsageError(f"none of the backends trains: {', '.join(what.backends)}")
        for backend in able:
            check_training(what.model, what.data, backend, what.policy, what.training)
    data = what.data
    calibration = data.calibration_set()
    calibration.select(what.policy.images, what.policy.seed)
    task = task_of(what.model)
    if what.target is not None and not calibration.labelled([i.id for i in calibration.images]):
        raise UsageError(
            f"{calibration.source}: no labels, and the search measures {task.metric.title} there"
        )
    dataset = open_dataset(data.root, data.evaluation)
    task.check(dataset, what.model.class_names)
    seen = {image.path.resolve() for image in calibration.images}
    both = sum(image.path.resolve() in seen for image in dataset.images)
    if both:
        note(
            f"{both} of the {len(dataset.images)} images to evaluate on may be calibrated on, too: "
            "figures may flatter what was calibrated on them"
        )
    for how in what.engines:
        registry.load_engine(how.engine).check(how.options)
        dataset.labels_of(dataset.select(how.images))


def needs_of(what: Comparison) -> list[Needs]:
    """What machines must have for a comparison, plugin by plugin."""
    backends = [registry.needed(registry.BACKENDS, name, what.device) for name in what.backends]
    names = (*what.rewrites, *what.corrections)
    rewrites = [registry.needed(registry.REWRITES, name) for name in names]
    return [*backends, *rewrites, *map(run_by, what.engines)]


def run_by(how: Evaluation) -> Needs:
    """What a machine must have to run graphs, and to measure their latency."""
    return registry.needed(registry.ENGINES, how.engine)


def trains(backends: Iterable[str]) -> list[str]:
    """Those of the backends that train."""
    kinds = {name: registry.load_backend(name).capabilities.train for name in backends}
    return [name for name, kind in kinds.items() if kind is not Support.NONE]
