"""What quantizing each layer alone costs, and how the layers rank by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from quantcore.data.dataset import Dataset
from quantcore.errors import UsageError
from quantcore.evaluation.tasks import task_of
from quantcore.ir.model import FloatModel
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.results.estimate import Loss
from quantcore.results.metric import Metric
from quantcore.results.sensitivity import LayerCost, Sensitivity
from quantcore.runtime.jobs import Runtime
from quantcore.studies.accuracy import Scorer
from quantcore.studies.graph_job import Candidate
from quantcore.studies.keep import alone, quantized_layers
from quantcore.studies.macs import macs_of
from quantcore.studies.runs import GraphRuns
from quantcore.table.table import CalibrationTable


@dataclass(frozen=True)
class StudiedModel:
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
    ) -> StudiedModel:
        """With the policy that the table was made with, unless another is given."""
        return cls(model, table, policy or CalibrationPolicy.from_dict(table.provenance.policy))

    def candidate(
        self, name: str, policy: CalibrationPolicy, layer: str | None = None
    ) -> Candidate:
        """The Q/DQ graph of a policy; refuses a table that does not fit."""
        proto = insert(self.model, plan(self.model, policy), self.table).proto
        found = next((info for info in self.model.layers if info.name == layer), None)
        return Candidate(name, proto, found)

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
    studied: StudiedModel,
    dataset: Dataset,
    split: str,
    runtime: Runtime,
    *,
    method: str | None = None,
    labels: bool = True,
    images: int | None = None,
    workers: int | None = None,
) -> Sensitivity:
    """Quantizes each layer alone and measures what that costs.

    Args:
        studied: Model, table, policy.
        dataset: Images, and labels for the main figure.
        split: Its name, for the record.
        runtime: Where it is done and kept.
        method: What to rank by, one of the `methods` of the task's metric; None for the agreement
            with what the float model finds.
        labels: Whether to measure the main figure too where another method ranks.
        images: How many images; None for all.
        workers: Images in flight; None for one on each core.

    Raises:
        UsageError: An unknown method, the main figure without labels, or nothing to study.
    """
    task = task_of(studied.model)
    metric = task.metric
    method = metric.kept if method is None else method
    if method not in metric.methods:
        raise UsageError(f"--method must be {', '.join(metric.methods)}, not {method!r}")
    names = studied.layers
    chosen = dataset.select(images)
    runs = GraphRuns(studied.model, dataset, chosen, runtime, workers)
    candidates = [Candidate("float", studied.model.proto)]
    for name in names:
        candidates.append(studied.candidate(name, alone(studied.policy, names, name), name))
    outcomes = runs.run(candidates, "layers x images")
    by_figure = method == metric.name
    scorer = Scorer(task, dataset, outcomes[0], runtime, labels or by_figure)
    if by_figure and not scorer.labelled:
        raise UsageError(f"{dataset.source}: no labels on these images; use --method {metric.kept}")
    losses = runtime.together(
        [partial(scorer.loss, outcome) for outcome in outcomes[1:]], "scoring"
    )
    costs = _costs(studied, names, losses, metric)
    ordered = sorted(costs, key=lambda cost: cost.by(method), reverse=True)
    return Sensitivity(
        model=studied.model.name,
        fingerprint=studied.model.fingerprint,
        table=studied.table.sha256,
        backend=studied.table.provenance.backend,
        split=split,
        images=len(chosen),
        method=method,
        metric=metric,
        float_figure=scorer.float_figure,
        layers=tuple(ordered),
    )


def _costs(
    studied: StudiedModel, names: Sequence[str], losses: Sequence[Loss], metric: Metric
) -> list[LayerCost]:
    macs = macs_of(studied.model)
    ops = {layer.name: layer.op for layer in studied.model.layers}
    return [
        LayerCost(layer=name, op=ops[name], macs=macs[name], loss=loss, metric=metric)
        for name, loss in zip(names, losses, strict=True)
    ]
