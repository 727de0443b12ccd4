"""Studies from a calibration table to the files of the report: the ranking, the search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from quantcore.contracts.engine import EngineOptions
from quantcore.contracts.registry import load_engine
from quantcore.data.coco import CocoDataset
from quantcore.report import plots
from quantcore.results.mixed import Mixed
from quantcore.results.sensitivity import DEFAULT_METHOD, Sensitivity
from quantcore.runtime.files import write_whole
from quantcore.runtime.plain import json_text
from quantcore.runtime.progress import Progress
from quantcore.studies import mixed, sensitivity
from quantcore.studies.mixed import Wish
from quantcore.studies.sensitivity import Subject
from quantcore.studies.speed import fastest


@dataclass(frozen=True)
class Study:
    """How layers are ranked, and which sets of them are searched.

    Attributes:
        data: COCO-format folder.
        split: To measure on.
        method: What layers are ranked by.
        images: How many; None for all.
        workers: Images in flight; None for one on each core.
        wish: What a search is asked for.
        engine: Engine whose latency is the cost; None where MACs are.
        verify: Split to measure on again what was found; None for none.
    """

    data: Path
    split: str
    method: str = DEFAULT_METHOD
    images: int | None = None
    workers: int | None = None
    wish: Wish = field(default_factory=Wish)
    engine: str | None = None
    verify: str | None = None


def rank(
    subject: Subject,
    study: Study,
    out: Path,
    progress: Progress | None = None,
    labels: bool = True,
) -> Sensitivity:
    """Ranks the layers; writes `sensitivity.json` and `sensitivity.svg`.

    Args:
        subject: Model, table, policy.
        study: How.
        out: Folder of report, picture and finished work.
        progress: Where to report.
        labels: Whether to measure mAP too where another method ranks.

    Raises:
        QuantcoreError: See `sensitivity.measure`.
    """
    dataset = CocoDataset.open(study.data, study.split)
    found = sensitivity.measure(
        subject,
        dataset,
        study.split,
        out,
        method=study.method,
        labels=labels,
        images=study.images,
        workers=study.workers,
        progress=progress,
    )
    write_whole(out / "sensitivity.json", json_text(found))
    write_whole(out / "sensitivity.svg", plots.sensitivity(found))
    return found


def mix(
    subject: Subject,
    study: Study,
    out: Path,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Mixed:
    """Searches for the layers to leave in float; writes the ranking, `mixed.json`, `frontier.svg`.

    Args:
        subject: Model, table, policy.
        study: How, and what is asked for.
        out: Folder of report, pictures and finished work.
        progress: Where to report.
        say: Is given a line for each set that is measured.

    Raises:
        QuantcoreError: See `mixed.find`, `speed.fastest` and `mixed.verify`.
    """
    if study.engine is not None:
        load_engine(study.engine).check(EngineOptions())
    dataset = CocoDataset.open(study.data, study.split)
    unseen = CocoDataset.open(study.data, study.verify) if study.verify else None
    ranking = rank(subject, study, out, progress, labels=False)
    images, workers = study.images, study.workers
    found = mixed.find(
        subject,
        ranking,
        dataset,
        out,
        study.wish,
        images=images,
        workers=workers,
        progress=progress,
        say=say,
    )
    if study.engine is not None:
        found = fastest(subject, found, study.engine, progress=progress)
    if unseen is not None:
        again = str(study.verify)
        found = mixed.verify(
            subject, found, unseen, again, out, images=images, workers=workers, progress=progress
        )
    write_whole(out / "mixed.json", json_text(found))
    write_whole(out / "frontier.svg", plots.frontier(found))
    return found
