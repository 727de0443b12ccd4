"""One way to quantize the model: a float model, perhaps rewritten, and its table."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import onnx

from quantcore.analysis.neighbours import neighbours
from quantcore.ir.model import FloatModel, QdqModel
from quantcore.pipeline import quantize
from quantcore.policy.policy import CalibrationPolicy
from quantcore.qdq.insertion import insert
from quantcore.qdq.placement import plan
from quantcore.studies.keep import keeping
from quantcore.table.table import CalibrationTable


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A recipe that can be run.

    Attributes:
        rung: Where it comes from; see `settings.RUNGS`.
        backend: What calibrated or trained it.
        model: The float model that the table is of.
        table: Its provenance has the policy.
        done: What was done to the model, in words, in order.
        rest: What layers that are not quantized are computed in.
        teacher: The model before its rounding was corrected, which a training has to match; None
            where that is `model` itself.
    """

    rung: str
    backend: str
    model: FloatModel
    table: CalibrationTable
    done: tuple[str, ...] = ()
    rest: str = "FP32"
    teacher: FloatModel | None = None

    @property
    def policy(self) -> CalibrationPolicy:
        """What is quantized, and how."""
        return CalibrationPolicy.from_dict(self.table.provenance.policy)

    @property
    def name(self) -> str:
        """How people call it."""
        policy = self.policy
        observer = policy.activations.label.replace("-", " ")
        own = "own " if policy.implementation == "native" else ""
        words = [self.backend, f"{own}{observer}", policy.placement.name, *self.done]
        if self.rest != "FP32":
            words.append(f"the rest in {self.rest}")
        return ", ".join(words)

    def graph(self) -> QdqModel:
        """Its graph."""
        return quantize(self.model, self.table)

    def graphs(self, count: int) -> Iterator[onnx.ModelProto]:
        """Its graph, and others that hardly differ; `count` in all."""
        sites = plan(self.model, self.policy)
        for table in (self.table, *neighbours(self.table, count - 1)):
            yield insert(self.model, sites, table).proto

    def leaving(self, rung: str, layers: Collection[str]) -> Attempt:
        """The same with some layers left in float."""
        policy = keeping(self.policy, layers)
        sites = {site.tensor for site in plan(self.model, policy).sites}
        kept = {name: found for name, found in self.table.tensors.items() if name in sites}
        origin = replace(self.table.provenance, policy=policy.to_dict())
        words = f"{len(layers)} layer{'s' * (len(layers) != 1)} in float"
        return replace(
            self,
            rung=rung,
            table=replace(self.table, tensors=kept, provenance=origin),
            done=(*self.done, words),
        )
