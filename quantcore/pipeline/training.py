"""From float model and images to a trained one, with one backend, and whether it was worth it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import quantcore
from quantcore.analysis.agreement import check_parity
from quantcore.contracts import registry
from quantcore.contracts.backend import BackendPlugin
from quantcore.contracts.capabilities import check_capabilities, check_trains
from quantcore.contracts.engine import EnginePlugin
from quantcore.contracts.session import SessionOptions
from quantcore.contracts.training import TrainingSpec
from quantcore.data.dataset import Dataset, ImageFile
from quantcore.engines import REFERENCE_ENGINE
from quantcore.errors import DataError, TableError, UsageError
from quantcore.evaluation.tasks import task_of
from quantcore.ir.model import Array, FloatModel, QdqModel
from quantcore.pipeline.calibrating import calibrate
from quantcore.pipeline.graphs import quantize, save_model, save_qdq
from quantcore.pipeline.settings import Data, Given
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.placement import Plan, plan
from quantcore.report.pages.training import page
from quantcore.results.training import TrainingRecord, Verdict
from quantcore.runtime.files import write_whole
from quantcore.runtime.keys import content_key, file_digests
from quantcore.runtime.progress import Progress, Silent
from quantcore.table.table import CalibrationTable, TensorRange
from quantcore.training.crops import Crops
from quantcore.training.gate import Gate, Side
from quantcore.training.loop import Ended, run_steps
from quantcore.training.recipe import Recipe
from quantcore.training.result import trained_model, trained_table
from quantcore.training.teacher import Teacher

#: Of what a kept state means; a change of it makes those on disk obsolete.
REVISION = 4


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training and what came of it.

    Attributes:
        model: The trained float model.
        table: Its ranges.
        before: What the ranges were before.
        parent: The float model that was trained.
        record: How it went.
    """

    model: FloatModel
    table: CalibrationTable
    before: CalibrationTable
    parent: FloatModel
    record: TrainingRecord

    @property
    def kept(self) -> tuple[FloatModel, CalibrationTable]:
        """The model and table to use: the calibrated ones where training was not worth it."""
        return (self.model, self.table) if self.record.better else (self.parent, self.before)


@dataclass(frozen=True)
class _Images:
    """Which images do what: none does two things. With labels, the class of each image."""

    dataset: Dataset
    trained: tuple[ImageFile, ...]
    judged: tuple[ImageFile, ...]
    classes: Mapping[int, int] | None


def train(
    model: FloatModel,
    data: Given,
    *,
    backend: str,
    policy: CalibrationPolicy | None = None,
    table: CalibrationTable | None = None,
    recipe: Recipe | None = None,
    teacher: FloatModel | None = None,
    options: SessionOptions | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Trains a model with the quantizers in place, and holds it against calibration alone.

    The teacher is the float network: no labels are needed, and only a recipe with `labels` reads
    them. Everything that can be refused is refused before an image is read.

    Args:
        model: The float model; stays as it is.
        data: Its calibration split is calibrated on, trained on and judged on, each on its own
            images.
        backend: Backend name.
        policy: What is quantized and how, and how many images are taken; None for the table's
            own, or the default one.
        table: Where the ranges start; None to calibrate first.
        recipe: How to train; None for the default.
        teacher: The float model that is to be matched, where it is not `model` itself: of a network
            that was rounded, the one before.
        options: Device, arithmetic and threads.
        checkpoint: Where the state is kept while it trains, and found again; None for nowhere.
        progress: Where long work reports.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    progress, recipe = progress or Silent(), recipe or Recipe()
    options, data = options or SessionOptions(), Data.of(data)
    policy = policy or _policy_of(table)
    images = _checked(model, data, backend, policy, table, recipe)
    teacher = _teaching(teacher, model)
    plugin = registry.load_backend(backend)
    engine = registry.load_engine(REFERENCE_ENGINE)
    sites = plan(model, policy)
    weights = recipe.of_weights(sites.sites)
    recipe = replace(recipe, weights=weights)
    spec = TrainingSpec(
        layers=recipe.trained(model), activations=recipe.activations, weights=weights
    )
    table = table or _calibrated(model, images.trained, backend, policy, options, progress)
    versions = {**plugin.versions(), "quantcore": quantcore.__version__}
    how = (recipe, spec, versions, progress)
    work = _Work(model, teacher, sites, table, plugin, engine, options, *how)
    return work.run(images, checkpoint)


def _teaching(teacher: FloatModel | None, model: FloatModel) -> FloatModel:
    """The float model that is to be matched; refused where it is another network."""
    if teacher is None:
        return model
    theirs, ours = (
        [(node.op_type, list(node.output)) for node in m.proto.graph.node] for m in (teacher, model)
    )
    if theirs != ours or teacher.preprocessing != model.preprocessing:
        raise UsageError(
            f"{teacher.name} cannot teach {model.name}: it must be the same network with other "
            "weights, such as the one before its weights were rounded"
        )
    return teacher


def check_training(
    model: FloatModel, data: Data, backend: str, policy: CalibrationPolicy, recipe: Recipe
) -> None:
    """Refuses what `train` would refuse; reads no image.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    _checked(model, data, backend, policy, None, recipe)


def _checked(
    model: FloatModel,
    data: Data,
    backend: str,
    policy: CalibrationPolicy,
    table: CalibrationTable | None,
    recipe: Recipe,
) -> _Images:
    """Which images do what, where nothing stands against the training."""
    sites = plan(model, policy)
    recipe.trained(model)
    capabilities = registry.load_backend(backend).capabilities
    check_trains(backend, capabilities, sites)
    if table is None:
        check_capabilities(backend, capabilities, sites)
    elif table.provenance.fingerprint != model.fingerprint:
        raise TableError(
            f"the table was calibrated on another graph ({table.provenance.model}, "
            f"{table.provenance.fingerprint[:12]}) than {model.name}; calibrate again"
        )
    return _shared_out(model, data, policy, table, recipe)


@dataclass(frozen=True)
class _Work:
    """A training whose inputs are all checked."""

    model: FloatModel
    teacher: FloatModel
    sites: Plan
    table: CalibrationTable
    plugin: BackendPlugin
    engine: EnginePlugin
    options: SessionOptions
    recipe: Recipe
    spec: TrainingSpec
    versions: Mapping[str, str]
    progress: Progress

    def run(self, images: _Images, checkpoint: Path | None) -> Trained:
        """Trains, checks that the result is the same network here and there, and judges it."""
        weights, ranges, ended, peak = self._steps(images, checkpoint)
        origin: dict[str, Any] = {
            "backend": self.plugin.name,
            "versions": dict(self.versions),
            "recipe": self.recipe.to_dict(),
            "table": self.table.sha256,
            "image_ids": [image.id for image in images.trained],
            "steps": len(ended.losses.heads),
            "loss": _ends(ended),
        }
        if self.teacher is not self.model:
            origin["teacher"] = self.teacher.fingerprint
        model = trained_model(self.model, weights, origin)
        made = (ranges, self.plugin.name, self.versions)
        table = trained_table(self.table, self.model, model, *made)
        with self.plugin.open(model, self.options) as session:
            parity = check_parity(session, self.engine)
        record = TrainingRecord(
            parent=self.model.fingerprint,
            fingerprint=model.fingerprint,
            backend=self.plugin.name,
            versions=self.versions,
            recipe=self.recipe.to_dict(),
            image_ids=tuple(image.id for image in images.trained),
            held_out=tuple(image.id for image in images.judged),
            losses=ended.losses,
            ended=ended.why,
            seconds=ended.seconds,
            peak_rss_mb=peak,
            parity=parity,
            verdict=self._verdict(images, model, table),
        )
        return Trained(
            model=model, table=table, before=self.table, parent=self.model, record=record
        )

    def _steps(
        self, images: _Images, checkpoint: Path | None
    ) -> tuple[dict[str, Array], dict[str, TensorRange], Ended, float]:
        """Weights, ranges, how it went, and the peak of the memory in MB."""
        with (
            self.plugin.open(self.model, self.options) as session,
            Teacher(self.teacher, self.sites, self.recipe, self.engine, images.classes) as teacher,
        ):
            check_parity(session, self.engine)
            with session.training(self.sites, self.table.tensors, self.spec) as run:
                crops = Crops(images.trained, self.model.preprocessing, self.recipe, teacher.size)
                key = self._key(images.trained, images.classes, teacher) if checkpoint else ""
                given = (crops, teacher, self.recipe, checkpoint, key, self.progress)
                ended = run_steps(run, *given)
                return run.weights(), run.ranges(), ended, session.peak_rss_mb()

    def _key(
        self, images: Sequence[ImageFile], classes: Mapping[int, int] | None, teacher: Teacher
    ) -> str:
        """Of all that a state depends on."""
        digests = file_digests((image.path for image in images), self.progress)
        return content_key(
            REVISION,
            self.model.key,
            self.teacher.key,
            self.sites,
            self.table.sha256,
            self.recipe.to_dict(),
            teacher.size,
            list(digests.values()),
            classes and [classes[image.id] for image in images],
            self.plugin.name,
            dict(self.versions),
            self.options,
        )

    def _verdict(
        self, images: _Images, model: FloatModel, table: CalibrationTable
    ) -> Verdict | None:
        if not images.judged:
            return None
        gate = Gate(self.teacher, images.dataset, images.judged, self.engine, self.progress)
        before = Side(self.model, self.sites, self.table)
        after = Side(model, self.sites, table)
        return gate.judge(before, after, self.recipe.neighbours)


def save_trained(
    found: Trained, folder: Path, manifest: Mapping[str, Any] | None = None
) -> QdqModel:
    """Writes what is to be used as `float.onnx`, `table.json` and `qdq.onnx`, and the record.

    `calibrated.json` is the table that training started from. A trained network that is no better
    goes to `rejected/`; the calibrated one takes its place.

    Args:
        found: What training gave.
        folder: Where to.
        manifest: When, with what and on what it was made, for the record.

    Returns:
        The Q/DQ graph to use.
    """
    if not found.record.better:
        save_model(found.model, folder / "rejected" / "float.onnx")
        found.table.save(folder / "rejected" / "table.json")
    model, table = found.kept
    qdq = quantize(model, table)
    save_model(model, folder / "float.onnx")
    table.save(folder / "table.json")
    found.before.save(folder / "calibrated.json")
    save_qdq(qdq, folder / "qdq.onnx")
    record = {**found.record.to_dict(), "manifest": dict(manifest or {})}
    write_whole(folder / "training.html", page(record).html())
    write_whole(folder / "training.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    return qdq


def _policy_of(table: CalibrationTable | None) -> CalibrationPolicy:
    return CalibrationPolicy.from_dict(table.provenance.policy) if table else CalibrationPolicy()


def _shared_out(
    model: FloatModel,
    data: Data,
    policy: CalibrationPolicy,
    table: CalibrationTable | None,
    recipe: Recipe,
) -> _Images:
    """Sets images aside that neither calibration nor training sees.

    Raises:
        DataError: The data set is unusable, or nothing is left to judge on or to train on.
    """
    dataset = data.calibration_set()
    chosen = dataset.select(policy.images, policy.seed)
    wanted = round(recipe.held_out * len(chosen))
    if recipe.held_out and not wanted:
        raise DataError(
            f"{dataset.source}: {len(chosen)} images are too few to set {recipe.held_out:g} of "
            "them aside for the gate; give more, or `held_out: 0` in the recipe"
        )
    seen = frozenset(table.provenance.image_ids) if table else frozenset()
    unseen = [image for image in (dataset.images if table else chosen) if image.id not in seen]
    if len(unseen) < wanted:
        raise DataError(
            f"{dataset.source}: the table has seen all but {len(unseen)} of the images, and the "
            f"gate wants {wanted} that nothing has seen; calibrate on fewer (--images), leave "
            "--table out, or put a smaller `held_out` into the recipe"
        )
    picks = np.random.default_rng([recipe.seed, 3]).permutation(len(unseen))[:wanted]
    judged = tuple(unseen[i] for i in np.sort(picks))
    aside = {image.id for image in judged}
    trained = tuple(image for image in chosen if image.id not in aside)
    if not trained:
        raise DataError(f"{dataset.source}: no images are left to train on; give more")
    classes = task_of(model).classes(dataset, model) if recipe.labels else None
    return _Images(dataset, trained, judged, classes)


def _calibrated(
    model: FloatModel,
    images: Sequence[ImageFile],
    backend: str,
    policy: CalibrationPolicy,
    options: SessionOptions,
    progress: Progress,
) -> CalibrationTable:
    """A table of the images that are trained on."""
    told = replace(policy, images=len(images))
    found = calibrate(
        model,
        [image.path for image in images],
        backend=backend,
        policy=told,
        device=options.device,
        threads=options.threads,
        progress=progress,
    ).table
    ids = tuple(image.id for image in images)
    return replace(found, provenance=replace(found.provenance, image_ids=ids))


def _ends(ended: Ended) -> list[float]:
    """The first and the last loss that are numbers."""
    total = [value for value in ended.losses.total if np.isfinite(value)]
    return [total[0], total[-1]] if total else []
