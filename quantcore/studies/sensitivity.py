"""What quantizing each layer alone costs, and how the layers rank by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from quantcore.data.coco import CocoDataset
from quantcore.errors import UsageError
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.results.estimate import Loss
from quantcore.results.sensitivity import DEFAULT_METHOD, METHODS, LayerCost, Sensitivity
from quantcore.runtime.progress import Progress, Silent
from quantcore.runtime.store import Store
from quantcore.studies.accuracy import Judge
from quantcore.studies.keep import alone, quantized_layers
from quantcore.studies.macs import macs_of
from quantcore.studies.runs import Runs, Variant
from quantcore.table.table import CalibrationTable


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
        model=subject.model.name,
        fingerprint=subject.model.fingerprint,
        table=subject.table.sha256,
        backend=subject.table.provenance.backend,
        split=split,
        images=len(chosen),
        method=method,
        float_map=judge.float_map,
        layers=tuple(ordered),
    )


def _costs(subject: Subject, names: Sequence[str], losses: Sequence[Loss]) -> list[LayerCost]:
    macs = macs_of(subject.model)
    ops = {layer.name: layer.op for layer in subject.model.layers}
    return [LayerCost(n, ops[n], macs[n], loss) for n, loss in zip(names, losses, strict=True)]
