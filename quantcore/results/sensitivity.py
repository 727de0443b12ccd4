"""What quantizing each layer alone costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from quantcore.results.estimate import Estimate, Loss
from quantcore.runtime.plain import plain

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
        found = {
            "layer": self.layer,
            "op": self.op,
            "macs": self.macs,
            "map_drop": self.loss.map_drop,
            "detections_loss": self.loss.detections,
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
            "float_map": self.float_map,
            "layers": [{"rank": n, **c.to_dict()} for n, c in enumerate(self.layers, 1)],
        }
        return plain(found)
