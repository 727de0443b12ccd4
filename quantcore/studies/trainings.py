"""Trainings of a study: each in a process of its own, kept, and found again by content."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

import quantcore
from quantcore.contracts import registry
from quantcore.contracts.session import SessionOptions
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Data, Trained, train
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.training import TrainingRecord
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, file_digests
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable
from quantcore.training.recipe import Recipe

#: Of what a kept training means; a change of it makes all that is on disk obsolete.
REVISION = 2


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A finished training; the tables as their files' texts, which are exact."""

    proto: onnx.ModelProto
    table: str
    before: str
    record: TrainingRecord


def trained(
    what: str,
    model: FloatModel,
    policy: CalibrationPolicy,
    recipe: Recipe,
    backend: str,
    data: Data,
    options: SessionOptions,
    checkpoint: Path,
    runtime: Runtime,
    table: CalibrationTable | None = None,
    teacher: FloatModel | None = None,
) -> Trained:
    """What `quantcore.pipeline.train` gives, unless the runtime has it already.

    Args:
        what: Names it in errors.
        model: The float model.
        policy: What is quantized, and which images are taken.
        recipe: How to train.
        backend: Backend name.
        data: Where the calibration images are.
        options: Device, arithmetic and threads.
        checkpoint: Where the state is kept while it trains.
        runtime: Where it is done and kept.
        table: Where the ranges start; None to calibrate first.
        teacher: The float model that is to be matched; None for `model` itself.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    images = data.calibration_set().select(policy.images, policy.seed)
    digests = file_digests((image.path for image in images), runtime.progress)
    key = content_key(
        "training",
        REVISION,
        quantcore.__version__,
        model.key,
        policy.to_dict(),
        recipe.to_dict(),
        (backend, dict(registry.load_backend(backend).versions()), options),
        [(image.id, digests[image.path]) for image in images],
        *([table.sha256] if table else []),
        *([teacher.key] if teacher else []),
    )
    how = (recipe, backend, data, options, checkpoint)
    given = (tuple(digests), model, teacher, policy, table, *how)
    needs = registry.needed(registry.BACKENDS, backend, options.device)
    more: dict[str, Any] = {"threads": options.threads, "needs": needs, "reads": digests}
    kept = runtime.one(whole(what, key, _Kept, _train, *given, **more))
    checkpoint.unlink(missing_ok=True)
    return Trained(
        model=replace(model, proto=kept.proto),
        table=CalibrationTable.from_json(kept.table, Path(f"{what}.table.json")),
        before=CalibrationTable.from_json(kept.before, Path(f"{what}.calibrated.json")),
        parent=model,
        record=kept.record,
    )


def _train(
    files: tuple[Path, ...],  # which whoever trains must be able to read
    model: FloatModel,
    teacher: FloatModel | None,
    policy: CalibrationPolicy,
    table: CalibrationTable | None,
    recipe: Recipe,
    backend: str,
    data: Data,
    options: SessionOptions,
    checkpoint: Path,
    progress: Progress,
) -> _Kept:
    done = train(
        model,
        data,
        backend=backend,
        policy=policy,
        table=table,
        recipe=recipe,
        teacher=teacher,
        options=options,
        # A folder that only the study's own machine has cannot be written to elsewhere.
        checkpoint=checkpoint if checkpoint.parent.is_dir() else None,
        progress=progress,
    )
    return _Kept(
        proto=done.model.proto,
        table=done.table.to_json(),
        before=done.before.to_json(),
        record=done.record,
    )
