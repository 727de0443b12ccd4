"""Rewrites of a study's model: each in a process of its own, kept, and found again by content."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

import quantcore
from quantcore.contracts import registry
from quantcore.ir.model import FloatModel
from quantcore.pipeline import Chosen, Data, rewrite
from quantcore.policy.policy import CalibrationPolicy
from quantcore.results.rewrites import Rewritten
from quantcore.runtime.jobs import Runtime, whole
from quantcore.runtime.keys import content_key, file_digests
from quantcore.runtime.progress import Progress
from quantcore.table.table import CalibrationTable

#: Of what a kept rewrite means; a change of it makes all that is on disk obsolete.
REVISION = 2


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """A rewritten graph and what was done to it; the table as its file's text, details as JSON."""

    proto: onnx.ModelProto
    table: str | None
    summary: str
    details: str
    parity: float | None


def rewritten(
    model: FloatModel,
    name: str,
    data: Data,
    policy: CalibrationPolicy,
    runtime: Runtime,
    table: CalibrationTable | None = None,
) -> Rewritten:
    """What `quantcore.pipeline.rewrite` gives, unless the runtime has it already.

    Args:
        model: The float model.
        name: Of the rewrite.
        data: Where the calibration images are.
        policy: Says which of them.
        runtime: Where it is done and kept.
        table: Of the model, for a correction.

    Raises:
        QuantcoreError: See the classes of `quantcore.errors`.
    """
    images = data.calibration_set().select(policy.images, policy.seed)
    digests = file_digests((image.path for image in images), runtime.progress)
    options = registry.load_rewrite(name).options()
    key = content_key(
        "rewrite",
        REVISION,
        quantcore.__version__,
        model.key,
        (name, options),
        table.sha256 if table else None,
        [digests[image.path] for image in images],
    )
    needs = registry.needed(registry.REWRITES, name)
    given = (model, name, Chosen(images), table)
    kept = runtime.one(whole(name, key, _Kept, _rewrite, *given, needs=needs, reads=digests))
    details = json.loads(kept.details)
    moved = kept.table and CalibrationTable.from_json(kept.table, Path(f"{name}.table.json"))
    found = replace(model, proto=kept.proto)
    return Rewritten(found, moved or None, kept.summary, details, kept.parity)


def _rewrite(
    model: FloatModel,
    name: str,
    images: Chosen,
    table: CalibrationTable | None,
    progress: Progress,
) -> _Kept:
    done = rewrite(model, name, images, table=table, progress=progress)
    return _Kept(
        proto=done.model.proto,
        table=done.table.to_json() if done.table else None,
        summary=done.summary,
        details=json.dumps(done.details),
        parity=done.parity,
    )
