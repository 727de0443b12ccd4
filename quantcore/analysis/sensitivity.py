"""What quantizing each layer alone costs, and how the layers rank by it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from quantcore.analysis.accuracy import Judge, Loss
from quantcore.analysis.keep import alone, quantized_layers
from quantcore.analysis.macs import macs_of
from quantcore.analysis.resample import Estimate
from quantcore.analysis.runs import Runs, Variant
from quantcore.data.coco import CocoDataset
from quantcore.errors import UsageError
from quantcore.ir import FloatModel
from quantcore.policy import CalibrationPolicy
from quantcore.progress import Progress, Silent
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.runtime.store import Store
from quantcore.table import CalibrationTable

FORMAT = "quantcore.sensitivity/1"

#: What layers can be ranked by.
METHODS = ("map", "detections", "sqnr")
DEFAULT_METHOD = "detections"


@dataclass(frozen=True)
class LayerCost:
    """What quantizing one layer alone costs.

    Attributes:
        layer: Layer name.
        op: Its neutral op.
        macs: Multiply-accumulates for one image.
        loss: Against the float model.
    """

    layer: str
    op: str
    macs: int
    loss: Loss

    def by(self, method: str) -> float:
        """The cost in the terms of a method, as a number that grows with it; never NaN."""
        value = {
            "map": self.loss.map_drop.value,
            "detections": self.loss.detections.value,
            "sqnr": 10 ** (-self.loss.heads_db / 10),  # noise by signal
        }[method]
        return -math.inf if math.isnan(value) else value

    def to_dict(self) -> dict[str, Any]:
        """JSON form; decibels are None where they are infinite or not measured."""
        return {
            "layer": self.layer,
            "op": self.op,
            "macs": self.macs,
            "map_drop": self.loss.map_drop.to_dict(),
            "detections_loss": self.loss.detections.to_dict(),
            "heads_sqnr_db": _finite(self.loss.heads_db),
            "layer_sqnr_db": _finite(self.loss.layer_db),
        }


@dataclass(frozen=True)
class Sensitivity:
    """The layers of a model, most sensitive first.

    Attributes:
        model: Model name.
        fingerprint: Of the float graph.
        table: SHA-256 of the calibration table.
        backend: Who calibrated it.
        split: Of the data set.
        images: How many were run.
        method: What the layers are ranked by.
        float_map: mAP of the float model on these images.
        layers: In the order of the ranking.
    """

    model: str
    fingerprint: str
    table: str
    backend: str
    split: str
    images: int
    method: str
    float_map: Estimate
    layers: tuple[LayerCost, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, `sensitivity.json`."""
        return {
            "format": FORMAT,
            "model": self.model,
            "float_fingerprint": self.fingerprint,
            "table_sha256": self.table,
            "backend": self.backend,
            "split": self.split,
            "images": self.images,
            "method": self.method,
            "interval": "90 % paired bootstrap over images",
            "float_map": self.float_map.to_dict(),
            "layers": [{"rank": n, **c.to_dict()} for n, c in enumerate(self.layers, 1)],
        }

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Subject:
    """What is studied.

    Attributes:
        model: The float model.
        table: Its calibration table.
        policy: What is quantized.
    """

    model: FloatModel
    table: CalibrationTable
    policy: CalibrationPolicy

    @classmethod
    def of(
        cls, model: FloatModel, table: CalibrationTable, policy: CalibrationPolicy | None = None
    ) -> Subject:
        """With the policy that the table was made with, unless another is given."""
        return cls(model, table, policy or CalibrationPolicy.from_dict(table.provenance.policy))

    def variant(self, name: str, policy: CalibrationPolicy, layer: str | None = None) -> Variant:
        """The Q/DQ graph of a policy; refuses a table that does not fit."""
        proto = insert(self.model, plan(self.model, policy), self.table).proto
        found = next((info for info in self.model.layers if info.name == layer), None)
        return Variant(name, proto, found)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the quantized layers.

        Raises:
            UsageError: There are none.
        """
        found = quantized_layers(self.model, self.policy)
        if not found:
            raise UsageError("the policy quantizes no layer of this model: nothing to study")
        return found


def measure(
    subject: Subject,
    dataset: CocoDataset,
    split: str,
    out: Path,
    *,
    method: str = DEFAULT_METHOD,
    labels: bool = True,
    images: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Quantizes each layer alone and measures what that costs.

    Args:
        subject: Model, table, policy.
        dataset: Images, and labels for `map`.
        split: Its name, for the record.
        out: Folder of the store; what is in it is not computed again.
        method: What to rank by, one of `METHODS`.
        labels: Whether to measure mAP too where another method ranks.
        images: How many images; None for all.
        workers: Images in flight; None for one on each core.
        progress: Where to report.

    Raises:
        UsageError: An unknown method, `map` without labels, or nothing to study.
    """
    if method not in METHODS:
        raise UsageError(f"--method must be {', '.join(METHODS)}, not {method!r}")
    names = subject.layers
    with Store(out) as store:
        chosen = dataset.select(images)
        runs = Runs(subject.model, dataset, chosen, store, workers, progress)
        variants = [Variant("float", subject.model.proto)]
        for name in names:
            variants.append(subject.variant(name, alone(subject.policy, names, name), name))
        outcomes = runs.run(variants, "layers x images")
    judge = Judge(dataset, outcomes[0], labels or method == "map")
    if method == "map" and not judge.labelled:
        raise UsageError(f"{dataset.source}: no labels on these images; use --method detections")
    scored = (progress or Silent()).track(outcomes[1:], "scoring")
    costs = _costs(subject, names, [judge.loss(outcome) for outcome in scored])
    ordered = sorted(costs, key=lambda cost: cost.by(method), reverse=True)
    return Sensitivity(
        subject.model.name,
        subject.model.fingerprint,
        subject.table.sha256,
        subject.table.provenance.backend,
        split,
        len(chosen),
        method,
        judge.float_map,
        tuple(ordered),
    )


def _costs(subject: Subject, names: Sequence[str], losses: Sequence[Loss]) -> list[LayerCost]:
    macs = macs_of(subject.model)
    ops = {layer.name: layer.op for layer in subject.model.layers}
    return [LayerCost(n, ops[n], macs[n], loss) for n, loss in zip(names, losses, strict=True)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
