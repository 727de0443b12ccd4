"""Calibrations of a study: each in a process of its own, kept, and found again by content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quantcore
from quantcore.contracts import registry
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Calibrated, Chosen, Data, calibrate
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.audit import SimulationAudit
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, file_digests
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable

#: Of what a kept calibration means; a change of it makes all that is on disk obsolete.
REVISION = 1


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A finished calibration; the table as its file's text, which is exact."""

    table: str
    seconds: float
    peak_rss_mb: float
    parity: float
    audit: SimulationAudit | None


def calibrated(
    what: str,
    model: FloatModel,
    policy: CalibrationPolicy,
    backend: str,
    data: Data,
    device: str,
    threads: int | None,
    runtime: Runtime,
    keep_histograms: bool = False,
) -> Calibrated:
    """What `quantcore.pipeline.calibrate` gives, unless the runtime has it already.

    Args:
        what: Names it in errors.
        model: The float model.
        policy: What to calibrate and how.
        backend: Backend name.
        data: What to calibrate on.
        device: Where the framework computes.
        threads: Its CPU threads; None for all.
        runtime: Where it is done and kept.
        keep_histograms: See there.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    dataset = data.calibration_set()
    images = dataset.select(policy.images, policy.seed)
    digests = file_digests((image.path for image in images), runtime.progress)
    key = content_key(
        "calibration",
        REVISION,
        quantcore.__version__,
        model.key,
        policy.to_dict(),
        (backend, dict(registry.load_backend(backend).versions()), device, threads),
        [(image.id, digests[image.path]) for image in images],
        *(["histograms"] if keep_histograms else []),
    )
    given = (model, policy, backend, Chosen(images), device, threads, keep_histograms)
    needs = registry.needed(registry.BACKENDS, backend, device)
    more: dict[str, Any] = {"threads": threads, "needs": needs, "reads": digests}
    kept = runtime.one(whole(what, key, _Kept, _calibrate, *given, **more))
    return Calibrated(
        model=model,
        table=CalibrationTable.from_json(kept.table, Path(f"{what}.table.json")),
        seconds=kept.seconds,
        peak_rss_mb=kept.peak_rss_mb,
        parity=kept.parity,
        audit=kept.audit,
    )


def _calibrate(
    model: FloatModel,
    policy: CalibrationPolicy,
    backend: str,
    images: Chosen,
    device: str,
    threads: int | None,
    keep_histograms: bool,
    progress: Progress,
) -> _Kept:
    done = calibrate(
        model,
        images,
        backend=backend,
        policy=policy,
        device=device,
        threads=threads,
        keep_histograms=keep_histograms,
        progress=progress,
    )
    return _Kept(
        table=done.table.to_json(),
        seconds=done.seconds,
        peak_rss_mb=done.peak_rss_mb,
        parity=done.parity,
        audit=done.audit,
    )
