"""What a portability study is about, and how its networks and tables are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quantcore.contracts.session import SessionOptions
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Calibrated, Data, Evaluation, save_model
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.portability import Recipe
from quantcore.runtime.jobs import Runtime
from quantcore.studies.calibrations import calibrated
from quantcore.studies.trainings import trained
from quantcore.training.recipe import Recipe as TrainingRecipe


@dataclass(frozen=True, kw_only=True)
class PortabilityStudy:
    """What is studied.

    Attributes:
        model: The float model.
        weights: Where it came from, for the record.
        policies: By name; each is applied with every implementation.
        backends: Backend names.
        implementations: Of `native`, `portable`.
        data: What to calibrate and evaluate on.
        out: Folder for the report, the tables and what is needed to go on after an interruption.
        how: How graphs are evaluated; latency is not measured.
        device: Where frameworks compute.
        threads: CPU threads of each framework; None for all.
        arithmetic: What they simulate in, as `SessionOptions.arithmetic`.
        reference: Name of the table that others are held against; None for the first.
        training: How networks are trained with the quantizers in place, by every backend that
            trains; None for not at all.
        command: The command line, for the record.
    """

    model: FloatModel
    weights: Path
    policies: Mapping[str, CalibrationPolicy]
    backends: tuple[str, ...]
    implementations: tuple[str, ...]
    data: Data
    out: Path
    how: Evaluation
    device: str = "auto"
    threads: int | None = None
    arithmetic: str = "float64"
    reference: str | None = None
    training: TrainingRecipe | None = None
    command: str = ""

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Every table that is to be made; those of one policy stand together."""
        trained = (False, True) if self.training else (False,)
        return tuple(
            Recipe(backend, name, replace(policy, implementation=implementation), by_training)
            for name, policy in self.policies.items()
            for implementation in self.implementations
            if implementation == "portable" or policy.arithmetic != "float64"
            for by_training in trained
            for backend in self.backends
        )


def made(study: PortabilityStudy, recipe: Recipe, runtime: Runtime) -> Calibrated:
    """A float model and its table: calibrated, or trained as well.

    Whether training is worth it is not asked here.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    given = (recipe.policy, recipe.backend, study.data)
    if not recipe.trained:
        how = (*given, study.device, study.threads)
        return calibrated(recipe.name, study.model, *how, runtime)
    policy, backend, data = given
    assert study.training is not None
    options = SessionOptions(device=study.device, threads=study.threads)
    checkpoint = study.out / f"{recipe.name}.checkpoint.npz"
    asked = (study.model, policy, study.training, backend, data, options)
    done = trained(recipe.name, *asked, checkpoint, runtime)
    save_model(done.model, study.out / "tables" / f"{recipe.name}.onnx")
    return Calibrated(
        model=done.model,
        table=done.table,
        seconds=done.record.seconds,
        peak_rss_mb=done.record.peak_rss_mb,
        parity=done.record.parity,
        audit=None,
    )
