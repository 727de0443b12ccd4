"""What quantizing each layer alone costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quantcore.results.estimate import Estimate, Loss
from quantcore.results.metric import SQNR, Metric
from quantcore.runtime.plain import plain

FORMAT = "quantcore.sensitivity/1"


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What quantizing one layer alone costs.

    Attributes:
        layer: Layer name.
        op: Its neutral op.
        macs: Multiply-accumulates for one image.
        loss: Against the float model.
        metric: What the figures are called.
    """

    layer: str
    op: str
    macs: int
    loss: Loss
    metric: Metric

    def by(self, method: str) -> float:
        """The cost in the terms of a method, as a number that grows with it; never NaN."""
        value = {
            self.metric.name: self.loss.drop.value,
            self.metric.kept: self.loss.disagreement.value,
            SQNR: 10 ** (-self.loss.heads_db / 10),  # noise by signal
        }[method]
        return -math.inf if math.isnan(value) else value

    def to_dict(self) -> dict[str, Any]:
        """JSON form; decibels are None where they are infinite or not measured."""
        found = {
            "layer": self.layer,
            "op": self.op,
            "macs": self.macs,
            f"{self.metric.name}_drop": self.loss.drop,
            f"{self.metric.kept}_loss": self.loss.disagreement,
            "heads_sqnr_db": self.loss.heads_db,
            "layer_sqnr_db": self.loss.layer_db,
        }
        return plain(found)


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The layers of a model, most sensitive first.

    Attributes:
        model: Model name.
        fingerprint: Of the float graph.
        table: SHA-256 of the calibration table.
        backend: Who calibrated it.
        split: Of the data set.
        images: How many were run.
        method: What the layers are ranked by, one of `metric.methods`.
        metric: What the figures are called.
        float_figure: The float model's main figure on these images.
        layers: In the order of the ranking.
        manifest: When, with what and on what it was made.
    """

    model: str
    fingerprint: str
    table: str
    backend: str
    split: str
    images: int
    method: str
    metric: Metric
    float_figure: Estimate
    layers: tuple[LayerCost, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, `sensitivity.json`."""
        found = {
            "format": FORMAT,
            "model": self.model,
            "float_fingerprint": self.fingerprint,
            "table_sha256": self.table,
            "backend": self.backend,
            "split": self.split,
            "images": self.images,
            "method": self.method,
            "interval": "90 % paired bootstrap over images",
            f"float_{self.metric.name}": self.float_figure,
            "layers": [{"rank": n, **c.to_dict()} for n, c in enumerate(self.layers, 1)],
            "manifest": self.manifest,
        }
        return plain(found)
