"""Studies from a calibration table to the files of the report: the ranking, the search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import ENGINES, load_engine, needed
from quantcore.data.dataset import Dataset
from quantcore.data.opening import open_dataset, split_in
from quantcore.engines import REFERENCE_ENGINE
from quantcore.report.pages import layers as pages
from quantcore.results.mixed import Mixed
from quantcore.results.sensitivity import Sensitivity
from quantcore.runtime.files import write_whole
from quantcore.runtime.jobs import Runtime
from quantcore.runtime.plain import json_text
from quantcore.studies import mixed, sensitivity
from quantcore.studies.manifest import Invocation, manifest
from quantcore.studies.mixed import SearchTarget
from quantcore.studies.sensitivity import StudiedModel
from quantcore.studies.speed import fastest


@dataclass(frozen=True, kw_only=True)
class LayerStudy:
    """How layers are ranked, and which sets of them are searched.

    Attributes:
        data: Folder of the data set.
        split: To measure on.
        method: What layers are ranked by; None for the agreement with the float model.
        images: How many; None for all.
        workers: Images in flight; None for one on each core.
        target: What a search is asked for.
        engine: Engine whose latency is the cost; None where MACs are.
        verify: Split to measure on again what was found; None for none.
        invocation: How it was called, for the record.
    """

    data: Path
    split: str | Dataset
    method: str | None = None
    images: int | None = None
    workers: int | None = None
    target: SearchTarget = field(default_factory=SearchTarget)
    engine: str | None = None
    verify: str | None = None
    invocation: Invocation = field(default_factory=Invocation)


def rank(
    studied: StudiedModel,
    study: LayerStudy,
    out: Path,
    runtime: Runtime,
    labels: bool = True,
) -> Sensitivity:
    """Ranks the layers; writes `sensitivity.json` and `sensitivity.html`.

    Args:
        studied: Model, table, policy.
        study: How.
        out: Folder of report and picture.
        runtime: Where it is done and kept.
        labels: Whether to measure the main figure too where another method ranks.

    Raises:
        QuantcoreError: See `sensitivity.measure`.
    """
    dataset = open_dataset(study.data, study.split)
    found = sensitivity.measure(
        studied,
        dataset,
        split_in(study.data, study.split),
        runtime,
        method=study.method,
        labels=labels,
        images=study.images,
        workers=study.workers,
    )
    found = replace(found, manifest=_manifest(studied, study, dataset, runtime))
    write_whole(out / "sensitivity.json", json_text(found))
    write_whole(out / "sensitivity.html", pages.sensitivity(found.to_dict()).html())
    return found


def mix(
    studied: StudiedModel,
    study: LayerStudy,
    out: Path,
    runtime: Runtime,
    say: Callable[[str], None] = lambda line: None,
) -> Mixed:
    """Searches for the layers to leave in float; writes the ranking, `mixed.json`, `mixed.html`.

    Args:
        studied: Model, table, policy.
        study: How, and what is asked for.
        out: Folder of report and pictures.
        runtime: Where it is done and kept.
        say: Is given a line for each set that is measured.

    Raises:
        QuantcoreError: See `mixed.find`, `speed.fastest` and `mixed.verify`.
    """
    if study.engine is not None:
        load_engine(study.engine).check(EngineOptions())
    dataset = open_dataset(study.data, study.split)
    unseen = open_dataset(study.data, study.verify) if study.verify else None
    ranking = rank(studied, study, out, runtime, labels=False)
    images, workers = study.images, study.workers
    found = mixed.find(
        studied,
        ranking,
        dataset,
        runtime,
        study.target,
        images=images,
        workers=workers,
        say=say,
    )
    if study.engine is not None:
        found = fastest(studied, found, study.engine, runtime)
    if unseen is not None:
        again = split_in(study.data, str(study.verify))
        found = mixed.verify(studied, found, unseen, again, runtime, images=images, workers=workers)
    found = replace(found, manifest=_manifest(studied, study, dataset, runtime))
    write_whole(out / "mixed.json", json_text(found))
    write_whole(out / "mixed.html", pages.mixed(found.to_dict()).html())
    return found


def _manifest(
    studied: StudiedModel, study: LayerStudy, dataset: Dataset, runtime: Runtime
) -> dict[str, Any]:
    engine = study.engine or REFERENCE_ENGINE
    versions = {**studied.table.provenance.versions, **load_engine(engine).versions()}
    host = runtime.host(needed(ENGINES, engine))
    images = dataset.select(study.images)
    return manifest(study.invocation, dataset, images, host, versions, runtime.progress)
